// Package contrib holds no code: its tests run the hooks the way the programs
// that manage lines run them. The etrnctl they find is a script that writes
// down its arguments: what the real one does with them is tested with it.
package contrib

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/etrnd/etrnd/internal/hang"
)

// program puts an executable of this name and text into dir.
func program(t *testing.T, dir, name, text string) {
	t.Helper()
	// A process that another goroutine starts meanwhile would have the file
	// open for writing until its exec: the script could not be run (ETXTBSY).
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
}

// run runs a hook and returns what etrnctl was called with and what was logged.
func run(t *testing.T, dir string, env, args []string) (calls, logged string) {
	t.Helper()
	program(t, dir, "logger", `echo "$@" >>"$RECORD/logged"`)
	ctx := hang.Context(t)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append([]string{"RECORD=" + dir, "PATH=" + dir}, env...)
	cmd.Dir = "/"
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v: a hook never fails", strings.Join(args, " "), err)
	}
	// The shell itself says "Killed" when timeout had to use force.
	if len(out) > 0 && string(out) != "Killed\n" {
		t.Errorf("%s: prints %q", strings.Join(args, " "), out)
	}
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(text))
	}
	return read("calls"), read("logged")
}

// dhcpcd reads its hooks into its own shell. What follows the hook must still
// run, with the PATH it had.
const dhcpcd = `before=$PATH; . "$1"; [ "$PATH" = "$before" ] || echo "PATH is changed"; echo after >"$RECORD/after"`

func hook(t *testing.T, path string, args ...string) []string {
	t.Helper()
	abs, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasPrefix(path, "dhcpcd/") {
		return []string{"/bin/sh", "-eu", "-c", dhcpcd, "dhcpcd-run-hooks", abs}
	}
	return append([]string{abs}, args...)
}

type hookCase struct {
	what string
	path string
	env  []string
	args []string
	want string // calls of etrnctl
}

// cases are what the programs that call hooks tell them, and what etrnctl is then
// called with.
var cases = []hookCase{
	// Debian's /etc/ppp/ip-up exports PPP_IFACE and passes the arguments of
	// pppd on: interface, tty, speed, local and remote address, ipparam.
	{"ppp up", "ppp/ip-up.d/etrnd", []string{"PPP_IFACE=ppp0"},
		[]string{"ppp0", "/dev/ttyUSB0", "115200", "192.0.2.7", "192.0.2.1", "isp"}, "link up --interface ppp0"},
	{"ppp down", "ppp/ip-down.d/etrnd", []string{"PPP_IFACE=ppp0"},
		[]string{"ppp0", "/dev/ttyUSB0", "115200", "192.0.2.7", "192.0.2.1", "isp"}, "link down --interface ppp0"},
	// IPv6: the addresses are link-local. When it alone goes, the line is still up.
	{"ppp IPv6 up", "ppp/ipv6-up.d/etrnd", []string{"PPP_IFACE=ppp0"},
		[]string{"ppp0", "/dev/ttyUSB0", "115200", "fe80::1", "fe80::2", "isp"}, "link up --interface ppp0"},
	{"ppp IPv6 up, arguments only", "ppp/ipv6-up.d/etrnd", nil,
		[]string{"ppp1", "/dev/ttyS0", "9600", "fe80::1", "fe80::2", ""}, "link up --interface ppp1"},
	{"ppp IPv6 down", "ppp/ipv6-down.d/etrnd", []string{"PPP_IFACE=ppp0"},
		[]string{"ppp0", "/dev/ttyUSB0", "115200", "fe80::1", "fe80::2", "isp"}, "link down --interface ppp0"},
	{"ppp IPv6 down, IPv4 up", "ppp/ipv6-down.d/etrnd", []string{"PPP_IFACE=ppp4"},
		[]string{"ppp4", "/dev/ttyUSB0", "115200", "fe80::1", "fe80::2", "isp"}, ""},
	// Elsewhere there are only the arguments.
	{"ppp up, arguments only", "ppp/ip-up.d/etrnd", nil,
		[]string{"ppp1", "/dev/ttyS0", "9600", "192.0.2.7", "192.0.2.1", ""}, "link up --interface ppp1"},
	// Without either there is nothing to tell.
	{"ppp up, nothing", "ppp/ip-up.d/etrnd", nil, nil, ""},

	{"NetworkManager up", "networkmanager/50-etrnd", []string{"DEVICE_IP_IFACE=wwan0"}, []string{"cdc-wdm0", "up"}, "link up --interface wwan0"},
	{"NetworkManager down, addresses gone", "networkmanager/50-etrnd", nil, []string{"cdc-wdm0", "down"}, "link down --interface cdc-wdm0"},
	// vpn-up has the tunnel in VPN_IP_IFACE, and in the argument the device below it.
	{"NetworkManager vpn-up", "networkmanager/50-etrnd", []string{"VPN_IP_IFACE=tun0", "DEVICE_IP_IFACE=eth0"}, []string{"eth0", "vpn-up"}, "link up --interface tun0"},
	{"NetworkManager vpn-down", "networkmanager/50-etrnd", []string{"VPN_IP_IFACE=tun0"}, []string{"eth0", "vpn-down"}, "link down --interface tun0"},
	// These concern no line.
	{"NetworkManager hostname", "networkmanager/50-etrnd", nil, []string{"none", "hostname"}, ""},
	{"NetworkManager dhcp4-change", "networkmanager/50-etrnd", []string{"DEVICE_IP_IFACE=wwan0"}, []string{"wwan0", "dhcp4-change"}, ""},
	// No interface is named; the default route of this test is over wwan3.
	{"NetworkManager connectivity", "networkmanager/50-etrnd", []string{"CONNECTIVITY_STATE=FULL"}, []string{"", "connectivity-change"}, "link up --interface wwan3"},
	{"NetworkManager portal", "networkmanager/50-etrnd", []string{"CONNECTIVITY_STATE=PORTAL"}, []string{"", "connectivity-change"}, ""},

	{"networkd routable", "networkd-dispatcher/routable.d/etrnd", []string{"IFACE=wg0", "OperationalState=routable"}, nil, "link up --interface wg0"},
	{"networkd off", "networkd-dispatcher/off.d/etrnd", []string{"IFACE=wg0", "OperationalState=off"}, nil, "link down --interface wg0"},

	{"ifup", "ifupdown/if-up.d/etrnd", []string{"IFACE=wlan0", "MODE=start", "PHASE=post-up"}, nil, "link up --interface wlan0"},
	{"ifdown", "ifupdown/if-down.d/etrnd", []string{"IFACE=wlan0", "MODE=stop", "PHASE=pre-down"}, nil, "link down --interface wlan0"},
	// "ifup -a" runs the hooks for each interface and once more at its end.
	{"ifup -a, its end", "ifupdown/if-up.d/etrnd", []string{"IFACE=--all"}, nil, ""},
	{"ifup lo", "ifupdown/if-up.d/etrnd", []string{"IFACE=lo"}, nil, ""},

	{"dhcpcd bound", "dhcpcd/90-etrnd", []string{"interface=usb0", "reason=BOUND"}, nil, "link up --interface usb0"},
	{"dhcpcd lost", "dhcpcd/90-etrnd", []string{"interface=usb0", "reason=NOCARRIER"}, nil, "link down --interface usb0"},
	// Every few minutes, and no news.
	{"dhcpcd renewed", "dhcpcd/90-etrnd", []string{"interface=usb0", "reason=RENEW"}, nil, ""},

	// The name comes from outside: it stays one argument.
	{"odd name", "networkd-dispatcher/routable.d/etrnd", []string{"IFACE=a b;c$(d)"}, nil, "link up --interface a b;c$(d)"},
}

func TestHooks(t *testing.T) {
	for _, test := range cases {
		t.Run(test.what, func(t *testing.T) {
			dir := t.TempDir()
			program(t, dir, "etrnctl", `[ $# -eq 4 ] || echo "$# arguments" >>"$RECORD/calls"
echo "$@" >>"$RECORD/calls"`)
			program(t, dir, "ip", `case $* in
"-4 -o address show dev ppp4") echo "7: ppp4    inet 192.0.2.7 peer 192.0.2.1/32 scope global ppp4" ;;
*address*) echo 'Device "ppp0" does not exist.' >&2; exit 1 ;;
*) echo "default via 192.0.2.1 dev wwan3 proto dhcp metric 700" ;;
esac`)
			calls, logged := run(t, dir, test.env, hook(t, test.path, test.args...))
			if strings.TrimSpace(calls) != test.want {
				t.Errorf("etrnctl was called with %q, want %q", calls, test.want)
			}
			if logged != "" {
				t.Errorf("logged %q although nothing went wrong", logged)
			}
			if strings.HasPrefix(test.path, "dhcpcd/") {
				if _, err := os.Stat(filepath.Join(dir, "after")); err != nil {
					t.Errorf("what dhcpcd does after the hook did not run: %v", err)
				}
			}
		})
	}
}

type anyHook struct {
	path string
	env  []string
	args []string
}

// everyHook is one call of each hook that leads to a call of etrnctl.
var everyHook = []anyHook{
	{"ppp/ip-up.d/etrnd", []string{"PPP_IFACE=ppp0"}, nil},
	{"ppp/ip-down.d/etrnd", []string{"PPP_IFACE=ppp0"}, nil},
	{"ppp/ipv6-up.d/etrnd", []string{"PPP_IFACE=ppp0"}, nil},
	{"ppp/ipv6-down.d/etrnd", []string{"PPP_IFACE=ppp0"}, nil},
	{"networkmanager/50-etrnd", nil, []string{"ppp0", "up"}},
	{"networkd-dispatcher/routable.d/etrnd", []string{"IFACE=ppp0"}, nil},
	{"networkd-dispatcher/off.d/etrnd", []string{"IFACE=ppp0"}, nil},
	{"ifupdown/if-up.d/etrnd", []string{"IFACE=ppp0"}, nil},
	{"ifupdown/if-down.d/etrnd", []string{"IFACE=ppp0"}, nil},
	{"dhcpcd/90-etrnd", []string{"interface=ppp0", "reason=BOUND"}, nil},
}

// TestHooksInTrouble holds the promise of every hook: whatever is wrong, it
// succeeds, ends soon and says so in the log.
func TestHooksInTrouble(t *testing.T) {
	// Side by side, whatever the number of processors: they spend their time
	// waiting.
	var wg sync.WaitGroup
	for _, h := range everyHook {
		wg.Go(func() {
			t.Run(h.path, func(t *testing.T) { inTrouble(t, h.path, h.env, h.args) })
		})
	}
	wg.Wait()
}

func inTrouble(t *testing.T, path string, env, args []string) {
	troubles := []struct {
		what    string
		etrnctl string // its script; empty: not installed
		want    string // in the log
	}{
		{"not installed", "", "etrnctl"},
		{"daemon stopped", "echo 'is etrnd running?' >&2; exit 75", "exit 75: is etrnd running?"},
		// It does not even end on SIGTERM.
		{"daemon hangs", "trap '' TERM\necho $$ >\"$RECORD/pid\"\nwhile :; do read -r x <\"$RECORD/fifo\"; done", "exit 137"},
	}
	for _, trouble := range troubles {
		dir := t.TempDir()
		if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
			t.Fatal(err)
		}
		if trouble.etrnctl != "" {
			program(t, dir, "etrnctl", trouble.etrnctl)
		}
		_, logged := run(t, dir, env, hook(t, path, args...))
		if !strings.Contains(logged, trouble.want) {
			t.Errorf("%s: logged %q, want %q in it", trouble.what, logged, trouble.want)
		}
	}
}

// TestHooksAreAllTested finds a hook that was added and is not in the tables
// above or in the README, or one that cannot be run. Every file of a directory is
// one, but for those that hold something else.
func TestHooksAreAllTested(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	var named []string
	for _, quoted := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(string(readme), -1) {
		named = append(named, quoted[1])
	}
	err = filepath.WalkDir(".", func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() && (path == "line" || path == "postfix") {
			if err == nil {
				err = fs.SkipDir
			}
			return err
		}
		if d.IsDir() || filepath.Dir(path) == "." {
			return nil
		}
		if !slices.ContainsFunc(everyHook, func(h anyHook) bool { return h.path == path }) {
			t.Errorf("%s is not in everyHook", path)
		}
		if !slices.ContainsFunc(cases, func(c hookCase) bool { return c.path == path }) {
			t.Errorf("%s has no case in TestHooks", path)
		}
		if !slices.ContainsFunc(named, func(pattern string) bool { ok, _ := filepath.Match(pattern, path); return ok }) {
			t.Errorf("%s is not in README.md", path)
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if sourced := strings.HasPrefix(path, "dhcpcd/"); sourced == (info.Mode()&0o111 != 0) {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
