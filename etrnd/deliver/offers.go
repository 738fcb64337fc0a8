package deliver

import "github.com/etrnd/etrnd/internal/esmtp"

// offers are the extensions that a site lists in its reply to EHLO.
type offers struct {
	pipelining, chunking, eightBit, utf8, dsn, size, priority bool
	helo                                                      bool // it took HELO in place of EHLO, and lists nothing

	maxSize int64 // 0: not told
}

// parseOffers reads them from the lines behind the first.
func parseOffers(lines []string) offers {
	o := esmtp.ParseOffers(lines)
	return offers{
		pipelining: o.Has("PIPELINING"),
		chunking:   o.Has("CHUNKING"),
		eightBit:   o.Has("8BITMIME"),
		utf8:       o.Has("SMTPUTF8"),
		dsn:        o.Has("DSN"),
		priority:   o.Has("MT-PRIORITY"),
		size:       o.Has("SIZE"),
		maxSize:    o.Size(),
	}
}
