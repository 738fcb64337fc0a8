package account

import "unsafe"

// addressOf is for a system call; the caller keeps the array alive.
func addressOf(list []uint32) uintptr { return uintptr(unsafe.Pointer(&list[0])) }
