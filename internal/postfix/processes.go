package postfix

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Moment is a time since the boot of the machine, in hundredths of a second: the
// time of day may be set meanwhile.
type Moment int64

// MomentNow is the present one. It is 0 where /proc is not to be read.
func MomentNow() Moment {
	text, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return 0
	}
	seconds, _, _ := strings.Cut(string(text), " ")
	whole, part, _ := strings.Cut(seconds, ".")
	n, err := strconv.ParseInt(whole+(part + "00")[:2], 10, 64)
	if err != nil {
		return 0
	}
	return Moment(n)
}

// Process is one of Postfix's daemons. The two together are of one process alone:
// numbers are given again.
type Process struct {
	PID   int
	Began Moment
}

// SessionsSince counts the processes of smtpd(8) that began no later than at a
// moment: each goes by the settings and tables of its beginning until its client
// has gone. It finds none where /proc is not to be read.
func (p *Instance) SessionsSince(ctx context.Context, at Moment) (n int, err error) {
	list, err := p.Processes(ctx, "smtpd")
	for _, s := range list {
		if s.Began <= at {
			n++
		}
	}
	return n, err
}

// QueueManagers are the programs that decide which mail is tried, and Resolvers
// those that say which way it goes, by the names of their files.
var (
	QueueManagers = []string{"qmgr", "oqmgr", "nqmgr"}
	Resolvers     = []string{"trivial-rewrite"}
)

// Processes are the processes of this Postfix that run one of some programs. It
// finds none where /proc is not to be read, and none while Postfix is down.
func (p *Instance) Processes(ctx context.Context, programs ...string) (list []Process, err error) {
	v, err := p.Settings(ctx, "queue_directory")
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(filepath.Clean(v["queue_directory"]), "pid", "master.pid"))
	if err != nil {
		return nil, nil // it does not run
	}
	master := strings.TrimSpace(string(text))
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	for _, dir := range dirs {
		stat, err := os.ReadFile(filepath.Join(dir, "stat"))
		if err != nil {
			continue // it has ended
		}
		if s, ok := childOf(string(stat), master, programs); ok {
			list = append(list, s)
		}
	}
	return list, nil
}

// maxComm is what the kernel keeps of the name of a program.
const maxComm = 15

// childOf tells whether /proc/PID/stat is of a child that runs one of the programs.
func childOf(stat, parent string, programs []string) (s Process, ok bool) {
	s, name, by, ok := parseStat(stat)
	is := func(program string) bool { return name == program[:min(len(program), maxComm)] }
	if !ok || by != parent || !slices.ContainsFunc(programs, is) {
		return Process{}, false
	}
	return s, true
}

// Alive reports whether the process has not ended.
func (s Process) Alive() bool {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(s.PID), "stat"))
	if err != nil {
		return false
	}
	now, _, _, ok := parseStat(string(stat))
	return ok && now == s
}

// parseStat reads /proc/PID/stat: "PID (NAME) STATE PARENT ...", with the time
// at which the process began in the 22nd place, in hundredths of a second too
// (proc(5); the kernel has no other unit towards programs). One that has ended and
// that nobody has asked about yet (Z) is none.
func parseStat(stat string) (s Process, name, parent string, ok bool) {
	pid, rest, ok := strings.Cut(stat, " (")
	end := strings.LastIndex(rest, ") ")
	if !ok || end < 0 {
		return s, "", "", false
	}
	f := strings.Fields(rest[end+2:])
	if len(f) < 20 || f[0] == "Z" {
		return s, "", "", false
	}
	began, err := strconv.ParseInt(f[19], 10, 64)
	if err != nil {
		return s, "", "", false
	}
	if s.PID, err = strconv.Atoi(pid); err != nil {
		return s, "", "", false
	}
	s.Began = Moment(began)
	return s, rest[:end], f[1], true
}
