// Package account knows the users that the package makes for the daemons, and
// tries as one of them what they have to do: the kernel decides then, not
// somebody's idea of mode bits, access lists and parent directories. It changes
// nothing, and says what would mend it.
package account

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The users of the daemons, whose groups have the same names, and the group that
// may make sockets beside that of the policy service (packaging/sysusers.conf).
const (
	Etrnd   = "etrnd"
	Milter  = "etrn-milter"
	Sockets = "etrnd-sockets"
)

// User is a user with the groups that a process of his has.
type User struct {
	Name   string
	UID    int
	GID    int
	Groups []int // supplementary
}

// Lookup finds a user. Groups are those that his process has beside his own; what
// the group file says of him does not count, for systemd gives a unit's process no
// more than the unit and that file name, and the daemons' users are in no groups.
// Groups that the machine does not have are left out.
func Lookup(name string, groups ...string) (User, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return User{}, err
	}
	who := User{Name: name}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err := errors.Join(err1, err2); err != nil {
		return User{}, err
	}
	who.UID, who.GID = uid, gid
	for _, name := range groups {
		if g, err := user.LookupGroup(name); err == nil {
			if n, err := strconv.Atoi(g.Gid); err == nil {
				who.Groups = append(who.Groups, n)
			}
		}
	}
	return who, nil
}

// Daemon is the user of etrnd with the groups that its unit gives it.
func Daemon() (User, error) { return Lookup(Etrnd, "postdrop", Milter, Sockets) }

// Credential is for a child process.
func (u User) Credential() *syscall.Credential {
	c := &syscall.Credential{Uid: uint32(u.UID), Gid: uint32(u.GID), Groups: []uint32{}}
	for _, g := range u.Groups {
		c.Groups = append(c.Groups, uint32(g))
	}
	return c
}

// Known reports whether this process can try things as the user: as root, or
// because it is the user.
func (u User) Known() bool { return os.Geteuid() == 0 || os.Geteuid() == u.UID }

// Do has f done as the user: files opened and sockets connected in f itself, not
// in goroutines that it starts, have his rights. Only root can, for others than
// himself.
func (u User) Do(f func() error) error {
	if os.Geteuid() == u.UID {
		return f()
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("only root can try something as %s: %w", u.Name, fs.ErrPermission)
	}
	done := make(chan error, 1)
	go func() {
		// Credentials belong to the thread when the kernel is asked directly
		// (credentials(7)). It is not unlocked, so it ends with this goroutine,
		// and nothing else ever runs on it.
		runtime.LockOSThread()
		if err := u.become(); err != nil {
			done <- fmt.Errorf("try as %s: %w", u.Name, err)
			return
		}
		done <- f()
	}()
	return <-done
}

func (u User) become() error {
	groups := make([]uint32, len(u.Groups)+1) // one more: never an empty array
	for i, g := range u.Groups {
		groups[i] = uint32(g)
	}
	for _, call := range [][4]uintptr{
		{unix.SYS_SETGROUPS, uintptr(len(u.Groups)), addressOf(groups), 0},
		{unix.SYS_SETRESGID, uintptr(u.GID), uintptr(u.GID), uintptr(u.GID)},
		{unix.SYS_SETRESUID, uintptr(u.UID), uintptr(u.UID), uintptr(u.UID)},
	} {
		if _, _, errno := unix.RawSyscall(call[0], call[1], call[2], call[3]); errno != 0 {
			return errno
		}
	}
	runtime.KeepAlive(groups)
	return nil
}

// Open opens a file for reading as the user. A named pipe in its place does not
// hold it up.
func (u User) Open(path string) (f *os.File, err error) {
	err = u.Do(func() error {
		f, err = os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		return err
	})
	if errors.Is(err, fs.ErrPermission) {
		return nil, &Denied{User: u, Path: path, Err: err}
	}
	return f, err
}

// Denied is that a user may not read a file.
type Denied struct {
	User User
	Path string
	Err  error
}

func (d *Denied) Error() string { return fmt.Sprintf("user %s: %v", d.User.Name, d.Err) }
func (d *Denied) Unwrap() error { return d.Err }

// Hint is the commands that mend it.
func (d *Denied) Hint() string {
	return fmt.Sprintf("the user %s cannot read it; run: %s", d.User.Name, d.User.Mend(d.Path))
}

// Mend is the commands that let the user read a file, through the group that he
// has, and pass the directories above it. Nobody else gets a right that he does
// not have.
func (u User) Mend(path string) string {
	var cmds []string
	group := strconv.Itoa(u.GID)
	if g, err := user.LookupGroupId(group); err == nil {
		group = g.Name
	}
	quoted := quote(path)
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		if fi, err := os.Stat(dir); err == nil && !u.may(fi, 0o1) {
			class := "o"
			switch {
			case owner(fi) == u.UID:
				class = "u"
			case u.in(groupOf(fi)):
				class = "g"
			}
			cmds = append(cmds, "chmod "+class+"+x "+quote(dir))
		}
		if dir == filepath.Dir(dir) {
			break
		}
	}
	slices.Reverse(cmds)
	if fi, err := os.Stat(path); err != nil || !u.may(fi, 0o4) || len(cmds) == 0 {
		switch {
		case err == nil && owner(fi) == u.UID:
			cmds = append(cmds, "chmod u+r "+quoted)
		case err == nil && groupOf(fi) == u.GID:
			cmds = append(cmds, "chmod g+r "+quoted)
		default:
			cmds = append(cmds, "chgrp "+group+" "+quoted, "chmod 640 "+quoted)
		}
	}
	return strings.Join(cmds, " && ")
}

// Reads reports whether the mode of a file, and of the directories above it, lets
// the user read it: for whoever may look at the modes but cannot try.
func (u User) Reads(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && u.may(fi, 0o4) && u.Enters(filepath.Dir(path)) == nil
}

// Enters reports why the modes of a directory, and of those above it, keep the user
// out. One that cannot be seen from here is not known to be wrong.
func (u User) Enters(dir string) error {
	for d := filepath.Clean(dir); ; d = filepath.Dir(d) {
		fi, err := os.Stat(d)
		switch {
		case errors.Is(err, fs.ErrPermission):
			return nil
		case err != nil:
			return err
		case !fi.IsDir():
			return fmt.Errorf("%s is not a directory", d)
		case !u.may(fi, 0o1):
			return fmt.Errorf("%s (mode %04o) keeps the user %s out", d, fi.Mode().Perm(), u.Name)
		case d == filepath.Dir(d):
			return nil
		}
	}
}

// may reports whether mode bits give the user a right: 4, 2 or 1 for reading,
// writing, passing.
func (u User) may(fi fs.FileInfo, right fs.FileMode) bool {
	switch {
	case u.UID == 0:
		return true
	case owner(fi) == u.UID:
		right <<= 6
	case u.in(groupOf(fi)):
		right <<= 3
	}
	return fi.Mode().Perm()&right == right
}

func (u User) in(group int) bool { return group == u.GID || slices.Contains(u.Groups, group) }

func owner(fi fs.FileInfo) int   { return int(fi.Sys().(*syscall.Stat_t).Uid) }
func groupOf(fi fs.FileInfo) int { return int(fi.Sys().(*syscall.Stat_t).Gid) }

// Writable reports whether the user can make files in a directory.
func (u User) Writable(dir string) error {
	return u.Do(func() error {
		// The real user and group, which access(2) goes by, are his too.
		if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
			return &fs.PathError{Op: "write in", Path: dir, Err: err}
		}
		return nil
	})
}

// quote makes a word of a path for a shell.
func quote(path string) string {
	if strings.Trim(path, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+@:") == "" {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}
