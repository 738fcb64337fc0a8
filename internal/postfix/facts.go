package postfix

import (
	"context"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/etrnd/etrnd/internal/postfix/conffile"
)

const (
	// lookEvery is how often the files that facts come from are looked at.
	lookEvery = time.Second
	// retryEvery is how often it is tried to read what could not be read.
	retryEvery = 10 * time.Second
	// unwatched is how long an answer of a table is remembered that is in no file,
	// such as one of a database.
	unwatched = time.Minute
)

// facts is what is remembered of the configuration until one of the files that it
// comes from changes, or until Refresh.
type facts struct {
	delimiter string
	lists     [][]string // mydestination, virtual_alias_domains, virtual_mailbox_domains
	addresses map[netip.Addr]bool
	all       bool // inet_interfaces has all addresses of the machine; see ours
	asked     bool // those are in addresses
	local     map[string]bool
	sources   map[string]bool // files that lists name and that have been asked
	active    int             // qmgr_message_active_limit
	queueDir  string
	hashed    bool // what its subdirectories could tell is further down
	refusing  refusing

	// What follows is guarded by Instance.mu, as are addresses, asked, local and
	// sources above.
	services *bool     // of master.cf say otherwise, see overridden; nil: not asked
	files    Files     // as they were before they were read
	looked   time.Time // at them
	failed   time.Time // to read them again, the last time
	fresh    time.Time // of local
}

// RecipientDelimiter returns the setting recipient_delimiter.
func (p *Instance) RecipientDelimiter(ctx context.Context) (string, error) {
	f, err := p.known(ctx)
	if err != nil {
		return "", err
	}
	return f.delimiter, nil
}

// Refresh makes the next question read the configuration again.
func (p *Instance) Refresh() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.facts = nil
}

// Sources names what the answers of IsLocal, Settings and Defaults have come
// from, beside main.cf: the files that its lists of
// domains name, and the program that knows what is built in.
func (p *Instance) Sources() []string {
	var list []string
	if program, err := p.command("postconf"); err == nil {
		list = append(list, program)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.facts != nil {
		list = append(list, slices.Sorted(maps.Keys(p.facts.sources))...)
	}
	return list
}

// note remembers files that are about to be read.
func (p *Instance) note(f *facts, names ...string) {
	now := LookAt(names)
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, state := range now {
		if !f.sources[name] {
			f.sources[name], f.files[name] = true, state
		}
	}
}

// dueLocked is what to look at, once in a while.
func (f *facts) dueLocked(now time.Time) (files Files, last time.Time) {
	last = f.looked
	if recent(last, now, lookEvery) || recent(f.failed, now, retryEvery) {
		return nil, last
	}
	f.looked = now
	if now.Sub(f.fresh) > unwatched {
		clear(f.local)
		f.fresh = now
	}
	return maps.Clone(f.files), last
}

// recent tells whether a time is less than d ago. A clock may have been set back.
func recent(t, now time.Time, d time.Duration) bool { return now.Sub(t) < d && !now.Before(t) }

// changed tells whether files are not what they were when somebody looked the last
// time. Of one that had just been written then the next change may bear the same
// time.
func (f Files) changed(last, now time.Time) bool {
	for name, state := range f {
		if state.Settling(last) && !state.Settling(now) || LookAt([]string{name})[name] != state {
			return true
		}
	}
	return false
}

func (p *Instance) known(ctx context.Context) (*facts, error) {
	now := time.Now()
	p.mu.Lock()
	old := p.facts
	var files Files
	var last time.Time
	if old != nil {
		files, last = old.dueLocked(now)
	}
	p.mu.Unlock()
	if old != nil && !files.changed(last, now) {
		return old, nil
	}
	f, err := p.read(ctx)
	if err != nil && old != nil {
		// main.cf may be half written, or the machine have no room for a command:
		// what was true a second ago is nearer to the truth than nothing.
		p.mu.Lock()
		old.failed = now
		p.mu.Unlock()
		p.o.Logger.WarnContext(ctx, "settings of Postfix have changed and cannot be read; the old ones are taken to be in force", "error", err)
		return old, nil
	}
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.facts == old {
		p.facts = f
	}
	return p.facts, nil
}

// read reads the settings.
func (p *Instance) read(ctx context.Context) (*facts, error) {
	dir, err := p.ConfigDir(ctx)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	files := LookAt([]string{filepath.Join(dir, "main.cf"), filepath.Join(dir, "master.cf")})
	names := []string{"recipient_delimiter", "mydestination", "virtual_alias_domains", "virtual_mailbox_domains", "inet_interfaces", "proxy_interfaces",
		"qmgr_message_active_limit", "queue_directory", "hash_queue_names"}
	v, err := p.Settings(ctx, slices.Concat(names, refusingNames)...)
	if err != nil {
		return nil, err
	}
	f := &facts{files: files, looked: now, fresh: now,
		delimiter: v["recipient_delimiter"], addresses: map[netip.Addr]bool{}, local: map[string]bool{}, sources: map[string]bool{},
	}
	f.active, f.queueDir, f.hashed = flow(v)
	for _, name := range names[1:4] {
		f.lists = append(f.lists, conffile.Words(v[name]))
	}
	for _, w := range append(conffile.Words(v["inet_interfaces"]), conffile.Words(v["proxy_interfaces"])...) {
		switch addr, err := netip.ParseAddr(strings.Trim(w, "[]")); {
		case err == nil:
			f.addresses[addr.Unmap()] = true
		case w == "all":
			f.all = true
			loopback(f.addresses)
		case w == "loopback-only" || w == "localhost":
			loopback(f.addresses)
		}
	}
	f.refusing = readRefusing(v)
	return f, nil
}

func loopback(set map[netip.Addr]bool) {
	set[netip.AddrFrom4([4]byte{127, 0, 0, 1})] = true
	set[netip.IPv6Loopback()] = true
}
