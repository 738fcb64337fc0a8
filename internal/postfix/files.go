package postfix

import (
	"syscall"
	"time"
)

// Files are files as they were when somebody looked. Two looks can be compared.
type Files map[string]FileState

// FileState is by what a change of a file is known. The inode tells of one that
// was put in its place, and nobody can set the time of the last change of the
// inode back.
type FileState struct {
	there                bool
	dev, inode           uint64
	size, mtime, changed int64 // times in nanoseconds
}

// LookAt looks at files, through links. One that cannot be looked at is not
// there.
func LookAt(files []string) Files {
	seen := make(Files, len(files))
	for _, path := range files {
		var st syscall.Stat_t
		if err := syscall.Stat(path, &st); err != nil {
			seen[path] = FileState{}
			continue
		}
		seen[path] = FileState{true, uint64(st.Dev), st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano()}
	}
	return seen
}

// settle is more than the resolution of a file system's times.
const settle = 2 * time.Second

// Settling reports whether the file had changed at about t or later. A time far
// in the future is of a clock that has been set back, and no reason never to
// trust the file.
func (s FileState) Settling(t time.Time) bool {
	d := time.Duration(s.changed - t.UnixNano())
	return s.there && d > -settle && d < time.Minute
}
