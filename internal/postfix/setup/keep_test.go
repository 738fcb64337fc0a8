package setup

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/mta"
	"github.com/etrnd/etrnd/internal/postfix"
)

func tableOf(keys ...string) *routing {
	r := &routing{keys: map[string]string{}, delimiters: "+", local: func(d string) bool { return d == "hub.example.net" }}
	for _, k := range keys {
		if k == "*" {
			r.rest = true
			continue
		}
		r.keys[k] = "transient:[x]"
	}
	return r
}

// What is kept: whatever Postfix has, in any of its queues and for any reason,
// for what goes to us now and will not any more.
func TestKeep(t *testing.T) {
	m := func(id, queue string, rcpts ...string) mta.Message {
		l := mta.Message{ID: id, Queue: queue, Size: 10, Arrived: time.Unix(int64(len(id)), 0)}
		for _, r := range rcpts {
			l.Recipients = append(l.Recipients, mta.Recipient{Address: r, Reason: "whatever"})
		}
		return l
	}
	for name, c := range map[string]struct {
		now, next *routing
		list      []mta.Message
		want      string
	}{
		"a domain dropped":          {tableOf("a.example", "b.example"), tableOf("b.example"), []mta.Message{m("A", "deferred", "x@A.example", "y@a.example"), m("B", "active", "x@b.example"), m("CC", "hold", "z@a.example")}, "a.example 2/1"},
		"every queue of Postfix":    {tableOf("a.example"), tableOf(), []mta.Message{m("A", "incoming", "x@a.example"), m("B", "active", "x@a.example"), m("C", "maildrop", "x@a.example")}, "a.example 3/0"},
		"nothing of ours":           {tableOf("a.example"), tableOf(), []mta.Message{m("A", "deferred", "x@b.example", "root")}, ""},
		"what is below":             {tableOf(".a.example"), tableOf(), []mta.Message{m("A", "deferred", "x@a.example"), m("B", "deferred", "x@b.a.example", "x@c.b.a.example")}, "b.a.example 1/0, c.b.a.example 1/0"},
		"an address":                {tableOf("u@a.example"), tableOf(), []mta.Message{m("A", "deferred", "U+x@a.example"), m("B", "deferred", "v@a.example")}, "u@a.example 1/0"},
		"an address of a domain":    {tableOf("u@a.example", "a.example"), tableOf("a.example"), []mta.Message{m("A", "deferred", "u@a.example")}, ""},
		"a domain and not the user": {tableOf("u@a.example", "a.example"), tableOf("u@a.example"), []mta.Message{m("A", "deferred", "u@a.example", "v@a.example")}, "a.example 1/0"},
		"wider":                     {tableOf("b.a.example"), tableOf(".a.example"), []mta.Message{m("A", "deferred", "u@b.a.example")}, ""},
		"not ASCII":                 {tableOf(".a.example", "äss.example"), tableOf(), []mta.Message{m("A", "deferred", "u@İx.A.example"), m("B", "deferred", "u@Äß.example"), m("C", "deferred", "u@ẞ.a.example")}, "ss.a.example 1/0, xn--ix-rub.a.example 1/0, xn--ss-uia.example 1/0"},
		"one domain":                {tableOf("bücher.example", "xn--bcher-kva.example"), tableOf(), []mta.Message{m("A", "deferred", "u@BÜCHER.example", "v@xn--bcher-kva.example"), m("B", "deferred", "u@bu\u0308cher.example")}, "xn--bcher-kva.example 1/0"},
		"an address, spelled":       {tableOf("u@bücher.example", "u@xn--bcher-kva.example"), tableOf(), []mta.Message{m("A", "deferred", "u@BÜCHER.example"), m("B", "deferred", "u@xn--bcher-kva.example")}, "u@xn--bcher-kva.example 2/0"},
		"the rest":                  {tableOf("*"), tableOf(), []mta.Message{m("A", "deferred", "u@x.example"), m("B", "deferred", "u@hub.example.net"), m("C", "deferred", "u@[192.0.2.1]")}, "[192.0.2.1] 1/0, x.example 1/0"},
		"into the rest":             {tableOf("a.example"), tableOf("*"), []mta.Message{m("A", "deferred", "u@a.example")}, ""},
		"final here":                {tableOf("hub.example.net"), tableOf("*"), []mta.Message{m("A", "deferred", "u@hub.example.net")}, "hub.example.net 1/0"},
		"no key":                    {tableOf("*"), tableOf(), []mta.Message{m("A", "deferred", "u@a b.example")}, "odd u@a b.example"},
	} {
		t.Run(name, func(t *testing.T) {
			kept, odd := keep(c.list, c.now, c.next)
			var got []string
			for _, k := range kept {
				got = append(got, k.Pattern+" "+string(rune('0'+k.Messages))+"/"+string(rune('0'+k.OnHold)))
			}
			for _, o := range odd {
				got = append(got, "odd "+o)
			}
			if g := strings.Join(got, ", "); g != c.want {
				t.Errorf("kept %q, want %q", g, c.want)
			}
		})
	}
	// A message with two routes is one message.
	kept, _ := keep([]mta.Message{m("A", "deferred", "x@a.example", "x@b.example")}, tableOf("a.example", "b.example"), tableOf())
	if sumOf(kept) != 1 || len(kept) != 2 {
		t.Errorf("%+v", kept)
	}
}

// What is let go is named by its key, or by its domain.
func TestLets(t *testing.T) {
	for _, c := range []struct {
		name, key string
		want      bool
	}{
		{"a.example", "a.example", true}, {"A.example", "a.example", true}, {"a.example", "u@a.example", true}, {"u@a.example", "u@a.example", true},
		{"v@a.example", "u@a.example", false}, {"u@a.example", "a.example", false}, {"example", "a.example", false}, {"a.example", "b.a.example", false},
	} {
		req := Requirements{LetGo: []string{"x.example", c.name}}
		if req.lets(c.key) != c.want {
			t.Errorf("%s lets %s go: %v", c.name, c.key, !c.want)
		}
	}
}

// Which domains are routed on our account is read from files alone, and read
// anew when they have changed.
func TestRouted(t *testing.T) {
	dir := t.TempDir()
	router := NewRouter(postfix.New(postfix.Options{ConfigDir: dir}))
	write := func(files map[string]string) (is Routed) {
		t.Helper()
		err := os.MkdirAll(filepath.Join(dir, ownDir), 0o755)
		for name, text := range files {
			err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
		}
		if err == nil {
			is, err = router.Routed(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		return is
	}
	type way struct{ ours, surely bool }
	check := func(what string, is Routed, domain string, want way) {
		t.Helper()
		if ours, surely := is(domain); ours != want.ours || surely != want.surely {
			t.Errorf("%s, %q: %v, %v", what, domain, ours, surely)
		}
	}
	check("no set-up", write(map[string]string{"main.cf": "", "master.cf": ""}), "acme.example", way{})
	r := &record{Version: recordVersion}
	is := write(map[string]string{"etrnd/state.json": r.encode(), "etrnd/transport": "# head\nacme.example x:y\n.sub.example x:y\nu@one.example x:y\n"})
	for domain, want := range map[string]way{
		"acme.example": {true, true}, "ACME.example": {true, true}, "x.acme.example": {}, "sub.example": {}, "x.sub.example": {true, true},
		"one.example": {true, false}, "slow.example": {}, "": {},
	} {
		check("table", is, domain, want)
	}
	r.Values = []valueRecord{{Name: "default_transport", Value: "transient:[x]"}}
	check("another's default_transport", write(map[string]string{"main.cf": "default_transport = smtp\n", "etrnd/state.json": r.encode()}), "slow.example", way{})
	is = write(map[string]string{"main.cf": "default_transport = transient:[x]\n"})
	check("the queue of *", is, "slow.example", way{true, false})
	check("the queue of *", is, "acme.example", way{true, true})
}

// The name that all held transports have in common, whichever of them is listed
// first.
func TestTransportOfFiles(t *testing.T) {
	for first, want := range map[string]string{
		"transient": "transient", "held-turn": "held", "held-lmtp": "held", "held-nobody": "held", "held-to-hub": "held",
	} {
		env := &environment{old: &record{contents: contents{Lists: []listRecord{{Name: "defer_transports", Elements: []string{first}}}}}}
		if got := env.transport(); got != want {
			t.Errorf("%s: %q, want %q", first, got, want)
		}
	}
}
