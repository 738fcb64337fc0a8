package config

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
)

// MilterDigest is the same for two configurations that make etrn-milter do the
// same.
func (c *Config) MilterDigest() string {
	type queue struct {
		Name    string
		Domains []string
		Turn    bool
	}
	v := struct {
		Milter                      Milter
		ConfigDir, Transport, Split string
		LogFormat                   string
		Queues                      []queue
	}{Milter: c.Milter, ConfigDir: c.MTA.ConfigDir, Transport: c.MTA.Transport, Split: c.MTA.Split, LogFormat: c.LogFormat}
	for _, q := range c.Queues {
		one := queue{Name: q.Name, Turn: q.Deliver.Turn}
		for _, p := range q.Domains {
			one.Domains = append(one.Domains, p.String())
		}
		v.Queues = append(v.Queues, one)
	}
	h := sha256.New()
	// Words and lists of words alone: it cannot fail.
	_ = json.NewEncoder(h).Encode(v)
	return hex.EncodeToString(h.Sum(nil)[:16])
}
