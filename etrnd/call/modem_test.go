package call

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/config"
)

// shell is a link whose commands are a shell script.
func shell(script string) *config.Link {
	argv := []string{"/bin/sh", "-c", script}
	return &config.Link{Name: "isp", Dial: argv, HangUp: argv, DialTimeout: time.Minute, HangUpTimeout: time.Minute}
}

// Real commands: what they get, and what is told of how they end.
func TestCommands(t *testing.T) {
	modem := Commands{Logger: slog.New(slog.DiscardHandler)}
	for _, c := range []struct {
		name, script string
		timeout      time.Duration // 0: a minute
		want         string        // of the error; empty: none
	}{
		{"all is well", "exit 0", 0, ""},
		{"it fails", "exit 3", 0, `the dial command "/bin/sh" of link isp failed: exit status 3`},
		{"what it prints is told", "echo no carrier; echo line busy >&2; exit 1", 0, `failed: exit status 1: no carrier` + "\nline busy"},
		{"but not all of it", "yes x | head -c 100000; exit 1", 0, strings.Repeat("x\n", maxOutput/2-1) + "x"},
		{"foreign bytes", `printf '\377'; exit 1`, 0, "exit status 1: ?"},
		{"its link is in the environment, and nothing of ours", `test "$ETRND_LINK" = isp -a -z "$HOME" -a "$LC_ALL" = C.UTF-8`, 0, ""},
		{"it runs in the root directory", `test "$(pwd)" = /`, 0, ""},
		{"it gets no input", "! read line", 0, ""},
		{"it does not end", "exec sleep 600", 100 * ms, "it did not end within 100ms"},
		{"it leaves a child behind that holds its output", "sleep 5 & exit 0", 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := shell(c.script)
			if c.timeout != 0 {
				l.DialTimeout = c.timeout
			}
			err := modem.Dial(t.Context(), l)
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.HasSuffix(err.Error(), c.want)):
				t.Errorf("error %v, want %q at its end", err, c.want)
			}
		})
	}
	t.Run("hanging up", func(t *testing.T) {
		t.Parallel()
		err := modem.HangUp(shell("exit 3"))
		if want := `the hang-up command "/bin/sh" of link isp failed: exit status 3`; err == nil || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
	})
	t.Run("no such command", func(t *testing.T) {
		t.Parallel()
		l := shell("")
		l.Dial = []string{"/no/such/command"}
		if err := modem.Dial(t.Context(), l); err == nil || !strings.Contains(err.Error(), "no such file") {
			t.Errorf("error: %v", err)
		}
	})
	t.Run("nobody wants to dial any more", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(50*ms, cancel)
		if err := modem.Dial(ctx, shell("exec sleep 600")); err == nil || !strings.Contains(err.Error(), "killed") {
			t.Errorf("error: %v", err)
		}
	})
}

// The interfaces are this machine's, those that match.
func TestCommandsInterfaces(t *testing.T) {
	var modem Commands
	found := modem.Interfaces(&config.Link{Interfaces: []string{"lo*"}})
	if len(found) != 1 || found[0].Name != "lo" {
		t.Fatalf("interfaces %+v, want lo", found)
	}
	if lo := netip.MustParseAddr("127.0.0.1"); !found[0].Up || found[0].Addrs[0] != lo {
		t.Errorf("lo: %+v", found[0])
	}
	if found := modem.Interfaces(&config.Link{Interfaces: []string{"nonesuch*"}}); len(found) != 0 {
		t.Errorf("interfaces %+v, want none", found)
	}
}

// A link is up when an interface of it is up and has an address.
func TestPresent(t *testing.T) {
	addr := []netip.Addr{netip.MustParseAddr("192.0.2.2")}
	for _, c := range []struct {
		name  string
		link  config.Link
		found []Interface
		iface string
		up    bool
	}{
		{"none", config.Link{Interfaces: []string{"ppp*"}}, nil, "", false},
		{"one", config.Link{Interfaces: []string{"ppp*"}}, []Interface{{"ppp0", true, addr}}, "ppp0", true},
		{"one that is down", config.Link{Interfaces: []string{"ppp*"}}, []Interface{{"ppp0", false, addr}}, "", false},
		{"one without an address yet", config.Link{Interfaces: []string{"ppp*"}}, []Interface{{"ppp0", true, nil}}, "", false},
		{"the second one", config.Link{Interfaces: []string{"ppp*"}}, []Interface{{"ppp0", true, nil}, {"ppp1", true, addr}}, "ppp1", true},
		{"a link without interfaces, which is dialled", config.Link{Dial: []string{"pon"}}, nil, "", false},
		{"a link of which nothing can be seen is always up", config.Link{}, nil, "", true},
	} {
		iface, up := present(fixedModem{found: c.found}, &c.link)
		if iface != c.iface || up != c.up {
			t.Errorf("%s: %q, %t, want %q, %t", c.name, iface, up, c.iface, c.up)
		}
	}
}

// fixedModem is one that always sees the same.
type fixedModem struct {
	Modem
	found []Interface
}

func (m fixedModem) Interfaces(*config.Link) []Interface { return m.found }
