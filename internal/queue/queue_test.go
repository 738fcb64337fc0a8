package queue

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func set(t testing.TB, queues ...[]string) *Set {
	t.Helper()
	var qs []Queue
	for _, q := range queues {
		queue := Queue{Name: q[0]}
		for _, p := range q[1:] {
			pattern, err := ParsePattern(p)
			if err != nil {
				t.Fatal(err)
			}
			queue.Domains = append(queue.Domains, pattern)
		}
		qs = append(qs, queue)
	}
	s, err := NewSet(qs)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestMatch(t *testing.T) {
	s := set(t,
		[]string{"acme", "acme.example", ".acme.example"},
		[]string{"lab", "lab.acme.example", "boss@acme.example"},
		[]string{"below", ".only.example"},
		[]string{"rest", "*"},
	).With(Env{Delimiters: "+", Local: func(d string) bool { return d == "here.example" }})
	for _, c := range []struct{ rcpt, want string }{
		{"a@acme.example", "acme"},
		{"a@ACME.Example", "acme"},              // case of the domain
		{"a@acme.example.", "acme"},             // final dot
		{"a@x.y.acme.example", "acme"},          // any depth below
		{"a@lab.acme.example", "lab"},           // exact beats below
		{"a@deep.lab.acme.example", "acme"},     // exact is not below
		{"boss@acme.example", "lab"},            // address beats domain
		{"Boss@acme.example", "lab"},            // Postfix folds table keys
		{"boss+x@acme.example", "lab"},          // extension
		{"bossy@acme.example", "acme"},          // not a prefix match
		{"a@only.example", "rest"},              // below is not itself
		{"a@b.only.example", "below"},           //
		{"a@notacme.example", "rest"},           // a label boundary counts
		{"a@here.example", ""},                  // local mail is nobody's
		{"root", ""},                            // no domain: local
		{`"a@b"@acme.example`, "acme"},          // quoted local part
		{"a@[192.0.2.1]", "rest"},               // address literal
		{"a@192.0.2.1", "rest"},                 // and without brackets
		{"a@bücher.example", "rest"},            // U-label
		{"", ""}, {"@", "rest"}, {"a@", "rest"}, // odd, but never a panic
	} {
		got, ok := s.Match(c.rcpt)
		if got != c.want || ok != (c.want != "") {
			t.Errorf("Match(%q) = %q, %v; want %q", c.rcpt, got, ok, c.want)
		}
	}
}

func TestMatchIDN(t *testing.T) {
	s := set(t, []string{"b", "bücher.example"})
	for _, rcpt := range []string{"a@bücher.example", "a@xn--bcher-kva.example", "a@BÜCHER.example"} {
		if got, _ := s.Match(rcpt); got != "b" {
			t.Errorf("Match(%q) = %q", rcpt, got)
		}
	}
	// A name to ask for is the same in each of its forms.
	for _, name := range []string{"b\u00fccher.example", "B\u00dcCHER.example", "bu\u0308cher.example"} {
		if got, want := s.Resolve(name), s.Resolve("xn--bcher-kva.example"); len(got) != 1 || !reflect.DeepEqual(got, want) {
			t.Errorf("%q asks for %v, and the A-label for %v", name, got, want)
		}
		if got, want := s.ResolveStripped(name), s.ResolveStripped("xn--bcher-kva.example"); len(got) != 1 || !reflect.DeepEqual(got, want) {
			t.Errorf("%q asks for %v on Postfix's port, and the A-label for %v", name, got, want)
		}
	}
}

func TestResolve(t *testing.T) {
	s := set(t,
		[]string{"acme", "acme.example", ".acme.example"},
		[]string{"lab", "lab.acme.example", "boss@other.example"},
		[]string{"below", ".only.example"},
	)
	whole := func(q string) Selection { return Selection{Queue: q} }
	for _, c := range []struct {
		name string
		want []Selection
	}{
		{"#acme", []Selection{whole("acme")}},
		{"#ACME", []Selection{whole("acme")}},
		{"#nobody", nil},
		{"acme.example", []Selection{{"acme", "acme.example", false}}},
		{"x.acme.example", []Selection{{"acme", "x.acme.example", false}}},
		{"lab.acme.example", []Selection{{"lab", "lab.acme.example", false}}},
		{"@acme.example", []Selection{{"acme", "acme.example", true}, {"lab", "acme.example", true}}}, // the owner first, then parts below
		{"other.example", []Selection{{"lab", "other.example", false}}},                               // only addresses of it
		{"@only.example", []Selection{{"below", "only.example", true}}},                               // ".only" written as "@only"
		{"only.example", nil},
		{"@com", nil}, {"@example", nil}, {"com", nil}, {"example", nil}, // nobody owns those
		{"@", nil}, {"#", nil}, {"", nil}, {"@#acme", nil},
	} {
		if got := s.Resolve(c.name); !reflect.DeepEqual(got, c.want) {
			t.Errorf("Resolve(%q) = %v; want %v", c.name, got, c.want)
		}
	}
	if got := s.ResolveStripped("acme"); !reflect.DeepEqual(got, []Selection{whole("acme")}) {
		t.Errorf("ResolveStripped(acme) = %v", got)
	}
	if got := s.ResolveStripped("acme.example"); len(got) != 2 || !got[0].Below {
		t.Errorf("ResolveStripped(acme.example) = %v", got)
	}
	if got := s.ResolveStripped("com"); got != nil {
		t.Errorf("ResolveStripped(com) = %v", got)
	}
}

func TestSelectionCovers(t *testing.T) {
	for _, c := range []struct {
		sel  Selection
		rcpt string
		want bool
	}{
		{Selection{Queue: "acme"}, "a@anything.example", true},
		{Selection{"acme", "acme.example", false}, "a@Acme.example", true},
		{Selection{"acme", "acme.example", false}, "a@x.acme.example", false},
		{Selection{"acme", "acme.example", true}, "a@x.acme.example", true},
		{Selection{"acme", "acme.example", true}, "a@xacme.example", false},
		{Selection{"acme", "acme.example", true}, "root", false},
	} {
		if got := c.sel.Covers(c.rcpt); got != c.want {
			t.Errorf("%v.Covers(%q) = %v", c.sel, c.rcpt, got)
		}
	}
}

func TestNewSetClashes(t *testing.T) {
	p, _ := ParsePattern("acme.example")
	star, _ := ParsePattern("*")
	_, err := NewSet([]Queue{
		{Name: "a", Domains: []Pattern{p, star}},
		{Name: "A", Domains: []Pattern{p, star}},
	})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{`two queues are named "A"`, `"acme.example" is in the queues "a" and "A"`, `"*" is in the queues`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q lacks %q", err, want)
		}
	}
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		in string
		ok bool
	}{
		{"acme.example", true}, {".acme.example", true}, {"a@acme.example", true}, {"*", true}, {"localhost", true}, {"_x.example", true},
		{"", false}, {".", false}, {"..a", false}, {"a..b", false}, {"@acme.example", false}, {"a@", false}, {"a b.example", false},
		{"-a.example", false}, {"a\x00.example", false}, {"*.acme.example", false}, {strings.Repeat("a", 64) + ".example", false}, {strings.Repeat("a.", 130) + "b", false}, {"a b@x.example", false},
		{"192.0.2.1", false}, {"a@192.0.2.1", false}, // addresses
		{"plant.5", true}, {".plant.5", true}, {"a@plant.5", true},
	} {
		p, err := ParsePattern(c.in)
		if (err == nil) != c.ok {
			t.Errorf("ParsePattern(%q): %v", c.in, err)
		}
		if err == nil && p.String() != strings.ToLower(c.in) {
			t.Errorf("ParsePattern(%q).String() = %q", c.in, p)
		}
	}
	for _, c := range []struct {
		in string
		ok bool
	}{
		{"smtp:[mail.acme.example]", true}, {"smtp:[mail.acme.example]:2525", true}, {"lmtp:unix:/x", true}, {"turn", true},
		{"", false}, {"smtp:", false}, {"smtp", false}, {"pipe:sh", false}, {"smtp:[a] b", false},
	} {
		d, err := ParseDeliver(c.in)
		if (err == nil) != c.ok || err == nil && d.String() != c.in {
			t.Errorf("ParseDeliver(%q) = %q, %v", c.in, d, err)
		}
	}
	for _, c := range []struct {
		in string
		ok bool
	}{{"acme", true}, {"a-1.b_C", true}, {"", false}, {"-a", false}, {"a b", false}, {"#a", false}, {"ä", false}, {strings.Repeat("a", 64), false}} {
		if err := ParseName(c.in); (err == nil) != c.ok {
			t.Errorf("ParseName(%q): %v", c.in, err)
		}
	}
}

func FuzzMatch(f *testing.F) {
	s := set(f, []string{"acme", "acme.example", ".acme.example"}, []string{"rest", "*"})
	for _, seed := range []string{"a@acme.example", "@", "#x", "@com", "a@b@c", "\x00", "é@é.é", strings.Repeat(".", 300)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		if q, ok := s.Match(in); ok && q != "acme" && q != "rest" {
			t.Fatalf("Match(%q) = %q", in, q)
		}
		for _, sel := range s.Resolve(in) {
			sel.Covers(in)
		}
		if p, err := ParsePattern(in); err == nil {
			if again, err := ParsePattern(p.String()); err != nil || again != p {
				t.Fatalf("ParsePattern(%q) does not survive its own String %q", in, p)
			}
		}
	})
}

// The tables that Resolve looks into find what a walk over all patterns does,
// in the same order.
func TestResolveFindsEveryPart(t *testing.T) {
	labels := []string{"a", "b", "c"}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	name := func() string {
		var s []string
		for range 1 + rnd.IntN(4) {
			s = append(s, labels[rnd.IntN(len(labels))])
		}
		return strings.Join(s, ".")
	}
	found := 0
	for range 300 {
		var queues []Queue
		taken := map[Pattern]bool{}
		for i := range 8 {
			q := Queue{Name: fmt.Sprint("q", i)}
			for range 4 {
				p, err := ParsePattern([]string{"", ".", "u@", "v@"}[rnd.IntN(4)] + name())
				if err != nil {
					t.Fatal(err)
				}
				if !taken[p] {
					taken[p] = true
					q.Domains = append(q.Domains, p)
				}
			}
			queues = append(queues, q)
		}
		set, err := NewSet(queues)
		if err != nil {
			t.Fatal(err)
		}
		for range 30 {
			d := name()
			for _, below := range []bool{false, true} {
				ask := d
				var want []string
				if i := set.owner(d); i >= 0 {
					want = append(want, queues[i].Name)
				}
				if below {
					ask = "@" + d
					if i, ok := set.below[d]; ok && !slices.Contains(want, queues[i].Name) {
						want = append(want, queues[i].Name)
					}
				}
				if len(want) > 0 || !below {
					for _, q := range queues {
						if !slices.Contains(want, q.Name) && slices.ContainsFunc(q.Domains, func(p Pattern) bool {
							return p.Address() && p.domain == d || below && strings.HasSuffix(p.domain, "."+d)
						}) {
							want = append(want, q.Name)
						}
					}
				}
				var got []string
				for _, sel := range set.Resolve(ask) {
					got = append(got, sel.Queue)
				}
				if !slices.Equal(got, want) {
					t.Fatalf("Resolve(%s) = %v, not %v, of %v", ask, got, want, queues)
				}
				found += len(got)
			}
		}
	}
	if found < 1000 {
		t.Errorf("only %d selections", found)
	}
}
