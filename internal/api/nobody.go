package api

import "time"

// Nobody is mail that the MTA holds for domains that are in no queue, so that
// nobody can ask for it: what is left of a queue or domain that was taken out
// of the configuration.
type Nobody struct {
	Messages int        `json:"messages"`
	Bytes    int64      `json:"bytes"`
	Oldest   *time.Time `json:"oldest"`  // null: nothing is held for nobody
	OnHold   int        `json:"on_hold"` // of the messages, put on hold by an administrator
	// Expires is when the MTA returns the oldest to its sender; null: not
	// known, or nothing to return.
	Expires *time.Time `json:"expires"`
	// Domains are those with the most messages first, and More says how many
	// others there are, at least.
	Domains []NobodyDomain `json:"domains"`
	More    int            `json:"more_domains"`
}

// NobodyDomain is the part of it that is for one domain.
type NobodyDomain struct {
	Domain   string     `json:"domain"` // empty: addresses without one
	Messages int        `json:"messages"`
	Bytes    int64      `json:"bytes"`
	Oldest   *time.Time `json:"oldest"`
	Expires  *time.Time `json:"expires"`
}
