package account

import (
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Exposed is a file, or a directory on the way to it, that somebody can change
// who should not: what is in a directory can be replaced by who may write there.
type Exposed struct {
	Path string // the file or directory
	Dir  bool   // it is a directory above the file
	Why  string // completes "it ..."
	Mend string // commands that mend it
}

// maxLinks bounds the symbolic links on one path, as the kernel does.
const maxLinks = 40

// Exposures looks who can change a file, through every symbolic link, beside root
// and the users that are named. A directory with the sticky bit, as /tmp is, does
// no harm: in it nobody can take away what is another's. What cannot be looked at
// from here is not known to be wrong.
func Exposures(path string, users ...User) (found []Exposed) {
	walk(path, func(at string, fi fs.FileInfo, last bool) {
		if e, bad := exposed(at, fi, !last, users); bad {
			found = append(found, e)
		}
	})
	return found
}

func exposed(path string, fi fs.FileInfo, above bool, users []User) (e Exposed, bad bool) {
	var why, mend []string
	may := func(u User) bool { return u.UID == owner(fi) }
	if uid := owner(fi); uid != 0 && !slices.ContainsFunc(users, may) {
		why = append(why, "belongs to the user "+userName(uid))
		mend = append(mend, "chown root "+quote(path))
	}
	sticky := fi.IsDir() && fi.Mode()&fs.ModeSticky != 0
	bits, who := "", ""
	if gid := groupOf(fi); fi.Mode().Perm()&0o020 != 0 && gid != 0 && !sticky {
		bits, who = "g", "the group "+groupName(gid)
	}
	if fi.Mode().Perm()&0o002 != 0 && !sticky {
		bits, who = bits+"o", "everybody"
	}
	if bits != "" {
		why = append(why, fmt.Sprintf("can be written to by %s (mode %04o)", who, fi.Mode().Perm()))
		mend = append(mend, "chmod "+bits+"-w "+quote(path))
	}
	return Exposed{Path: path, Dir: above, Why: strings.Join(why, " and "), Mend: strings.Join(mend, " && ")}, len(why) > 0
}

// walk visits every directory on the way to a file, and then the file.
func walk(path string, visit func(at string, fi fs.FileInfo, last bool)) {
	path, err := filepath.Abs(path)
	if err != nil {
		return
	}
	seen := map[string]bool{}
	at, rest, links := "/", strings.Split(strings.Trim(path, "/"), "/"), 0
	look := func(fi fs.FileInfo) {
		if !seen[at] {
			seen[at] = true
			visit(at, fi, len(rest) == 0)
		}
	}
	if fi, err := os.Lstat(at); err == nil {
		look(fi)
	}
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		if name == "" || name == "." {
			continue
		}
		next := filepath.Join(at, name) // ".." included
		fi, err := os.Lstat(next)
		if err != nil {
			return
		}
		if fi.Mode()&fs.ModeSymlink == 0 {
			at = next
			look(fi)
			continue
		}
		to, err := os.Readlink(next)
		if links++; err != nil || links > maxLinks {
			return
		}
		if filepath.IsAbs(to) {
			at = "/"
		}
		rest = append(strings.Split(strings.Trim(to, "/"), "/"), rest...)
	}
}

func userName(uid int) string {
	u, err := user.LookupId(strconv.Itoa(uid))
	if err != nil {
		return strconv.Itoa(uid)
	}
	return u.Username
}

func groupName(gid int) string {
	g, err := user.LookupGroupId(strconv.Itoa(gid))
	if err != nil {
		return strconv.Itoa(gid)
	}
	return g.Name
}
