package testbed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	queueDir = "/var/spool/postfix"
	mailLog  = "/var/log/mail.log"
)

// PostfixOptions of a host's Postfix.
type PostfixOptions struct {
	// Main is added to the bed's own settings in main.cf and wins over them.
	Main map[string]string

	// Master has entries in the syntax of master.cf, continuation lines after
	// a newline. One with the service name and type of an entry that Debian
	// ships takes its place.
	Master []string

	// Final are domains whose mail ends here: it goes into a Maildir, for any
	// recipient, where Delivered finds it.
	Final []string

	// Files are further files, by path, such as maps. They are written before
	// Postfix starts.
	Files map[string]string
}

// Postfix is the default instance of a host.
type Postfix struct {
	host *Host
}

// mailDir is where the mail for PostfixOptions.Final ends.
const mailDir = "/var/mail/final"

// Postfix configures and starts the host's Postfix, Debian's master.cf with
// the chroot it has, and returns when SMTP answers. The log is
// /var/log/mail.log.
func (h *Host) Postfix(ctx context.Context, opts PostfixOptions) (*Postfix, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	main := map[string]string{
		// As Debian sets them, ...
		"compatibility_level":      "3.6",
		"myhostname":               h.Hostname,
		"mydestination":            "$myhostname, localhost",
		"mynetworks":               "127.0.0.0/8",
		"smtpd_relay_restrictions": "permit_mynetworks permit_sasl_authenticated defer_unauth_destination",
		"append_dot_mydomain":      "no",
		"biff":                     "no",
		"recipient_delimiter":      "+",
		"mailbox_size_limit":       "0",
		"inet_interfaces":          "all",
		// ... and what a host without syslog, DNS and aliases needs.
		"alias_maps":             "",
		"alias_database":         "",
		"inet_protocols":         "ipv4",
		"maillog_file":           mailLog,
		"smtp_host_lookup":       "native",
		"smtp_dns_support_level": "disabled",
		"lmtp_host_lookup":       "native",
		"lmtp_dns_support_level": "disabled",
		"message_size_limit":     "102400000",
		"virtual_mailbox_limit":  "0",
		"notify_classes":         "", // no notices to the postmaster among the mail that is counted
	}
	if len(opts.Final) > 0 {
		// One directory for all: virtual(8) writes the recipient into the
		// message, and one is quicker to watch than many.
		maps.Copy(main, map[string]string{
			"virtual_mailbox_domains": strings.Join(opts.Final, ", "),
			"virtual_mailbox_base":    filepath.Dir(mailDir),
			"virtual_mailbox_maps":    "static:" + filepath.Base(mailDir) + "/",
			"virtual_uid_maps":        "static:64368",
			"virtual_gid_maps":        "static:64368",
			"virtual_minimum_uid":     "100",
		})
		if _, err := h.Run(ctx, "install", "-d", "-o", "vmail", "-g", "vmail", mailDir); err != nil {
			return nil, err
		}
	}
	maps.Copy(main, opts.Main)
	var cf strings.Builder
	for _, k := range slices.Sorted(maps.Keys(main)) {
		fmt.Fprintf(&cf, "%s = %s\n", k, main[k])
	}
	master, err := os.ReadFile("/usr/share/postfix/master.cf.dist")
	if err != nil {
		return nil, fmt.Errorf("postfix as Debian packages it is needed: %w", err)
	}
	files := map[string]string{
		"/etc/postfix/main.cf":   cf.String(),
		"/etc/postfix/master.cf": mergeMaster(string(master), opts.Master),
	}
	maps.Copy(files, opts.Files)
	for path, data := range files {
		if err := h.WriteFile(path, []byte(data), 0o644); err != nil {
			return nil, err
		}
		if err := h.age(path); err != nil {
			return nil, err
		}
	}
	if err := h.fillChroot(); err != nil {
		return nil, err
	}
	p := &Postfix{host: h}
	if err := p.Start(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

// fillChroot copies into Postfix's queue directory what its programs read once
// they are in there. Debian does so by a script that is called by the unit in
// one release and by Postfix's own start in another, each time in its own way;
// what they copy beyond this (locale, NSS modules, certificates) is not needed
// by a host that has neither DNS nor other sources of names than files.
func (h *Host) fillChroot() error {
	for _, name := range []string{"hosts", "resolv.conf", "nsswitch.conf", "services", "host.conf"} {
		data, err := h.ReadFile("/etc/" + name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // host.conf is of no package that must be there
		}
		if err != nil {
			return err
		}
		if err := h.WriteFile(queueDir+"/etc/"+name, data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// age makes a file look older than it is. Every program of Postfix that finds
// main.cf changed within the last seconds waits, up to 1.5 s, lest it read half
// of a change.
func (h *Host) age(path string) error {
	old := time.Now().Add(-time.Minute)
	return os.Chtimes(h.Path(path), old, old)
}

// mergeMaster replaces and adds entries of a master.cf.
func mergeMaster(text string, entries []string) string {
	key := func(line string) string {
		f := strings.Fields(line)
		if len(f) < 2 {
			return ""
		}
		return f[0] + "/" + f[1]
	}
	replaced := map[string]bool{}
	for _, e := range entries {
		replaced[key(e)] = true
	}
	var out []string
	skip := false
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if line == "" || line[0] == '#' {
			continue
		}
		if line[0] != ' ' && line[0] != '\t' {
			skip = replaced[key(line)]
		}
		if !skip {
			out = append(out, line)
		}
	}
	return strings.Join(append(out, entries...), "\n") + "\n"
}

// Start starts Postfix and returns when SMTP answers.
func (p *Postfix) Start(ctx context.Context) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	if _, err := p.host.Run(ctx, "postfix", "start"); err != nil {
		return fmt.Errorf("%w\n%s", err, p.logTail())
	}
	err := Until(ctx, "Postfix of "+p.host.Name+" to answer", func() (bool, error) {
		c, err := p.host.Dial(ctx, "tcp", "127.0.0.1:25")
		if err != nil {
			return false, nil
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(longest))
		reply := make([]byte, 4)
		n, _ := c.Read(reply)
		if n > 0 {
			_, _ = c.Write([]byte("QUIT\r\n"))
			_, _ = c.Read(make([]byte, 512))
		}
		return string(reply[:n]) == "220 ", nil
	})
	if err != nil {
		return fmt.Errorf("%w\n%s", err, p.logTail())
	}
	return nil
}

func (p *Postfix) logTail() []byte {
	log, _ := p.host.ReadFile(mailLog)
	return log[max(0, len(log)-4096):]
}

// Stop stops Postfix in an orderly way and returns when it is gone.
func (p *Postfix) Stop(ctx context.Context) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	if _, err := p.host.Run(ctx, "postfix", "stop"); err != nil {
		return err
	}
	return Until(ctx, "Postfix of "+p.host.Name+" to stop", func() (bool, error) {
		pids, err := p.pids()
		return len(pids) == 0, err
	})
}

// Kill ends every process of Postfix with SIGKILL.
func (p *Postfix) Kill(ctx context.Context) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	return Until(ctx, "Postfix of "+p.host.Name+" to die", func() (bool, error) {
		pids, err := p.pids()
		if err != nil || len(pids) == 0 {
			return true, err
		}
		// The shell's own kill: procps need not be installed. One that has
		// ended meanwhile is no error.
		_, err = p.host.Run(ctx, "bash", "-c", "kill -KILL "+strings.Join(pids, " ")+" || :")
		return false, err
	})
}

// pids are the processes of Postfix by their numbers inside the host, the
// master first so that it starts no others.
func (p *Postfix) pids() ([]string, error) {
	entries, err := os.ReadDir(p.host.Path("/proc"))
	if err != nil {
		return nil, err
	}
	var pids []string
	for _, e := range entries {
		exe, err := os.Readlink(p.host.Path("/proc/" + e.Name() + "/exe"))
		if err != nil || !strings.HasPrefix(exe, "/usr/lib/postfix/sbin/") {
			continue
		}
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		if filepath.Base(exe) == "master" {
			pids = slices.Insert(pids, 0, e.Name())
		} else {
			pids = append(pids, e.Name())
		}
	}
	return pids, nil
}

// Reload makes Postfix read its configuration again.
func (p *Postfix) Reload(ctx context.Context) error {
	_, err := p.host.Run(ctx, "postfix", "reload")
	return err
}

// Set changes settings in main.cf; Reload makes them count.
func (p *Postfix) Set(ctx context.Context, settings map[string]string) error {
	args := []string{"postconf", "-e"}
	for _, k := range slices.Sorted(maps.Keys(settings)) {
		args = append(args, k+"="+settings[k])
	}
	if _, err := p.host.Run(ctx, args...); err != nil {
		return err
	}
	return p.host.age("/etc/postfix/main.cf")
}

// Queued is a message in Postfix's queue, as postqueue -j lists it.
type Queued struct {
	ID         string `json:"queue_id"`
	Queue      string `json:"queue_name"`
	Arrival    int64  `json:"arrival_time"` // Unix seconds
	Size       int64  `json:"message_size"`
	Sender     string `json:"sender"`
	Recipients []struct {
		Address string `json:"address"`
		Reason  string `json:"delay_reason"`
	} `json:"recipients"`
}

// Queue lists what is in the host's Postfix queue.
func (h *Host) Queue(ctx context.Context) ([]Queued, error) {
	out, err := h.Run(ctx, "postqueue", "-j")
	if err != nil {
		return nil, err
	}
	var list []Queued
	for dec := json.NewDecoder(strings.NewReader(out)); dec.More(); {
		var q Queued
		if err := dec.Decode(&q); err != nil {
			return nil, fmt.Errorf("host %s: postqueue -j: %w", h.Name, err)
		}
		list = append(list, q)
	}
	return list, nil
}

// WaitQueue waits until exactly n messages are in the host's queue.
func (h *Host) WaitQueue(ctx context.Context, n int) error {
	have := 0
	err := Until(ctx, fmt.Sprintf("%d messages in the queue of %s", n, h.Name), func() (bool, error) {
		list, err := h.Queue(ctx)
		have = len(list)
		return have == n, err
	})
	if err != nil {
		return fmt.Errorf("%w (there are %d)", err, have)
	}
	return nil
}
