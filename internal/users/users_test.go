package users

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/emersion/go-sasl"
	"github.com/xdg-go/scram"
)

// cheap is the least that is allowed, to keep the tests quick.
const cheap = minIterations

func secret(t testing.TB, password string, cram bool) Secret {
	t.Helper()
	s, err := NewSecret(password, SecretOptions{Iterations: cheap, CramMD5: cram})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// store has acme (with CRAM-MD5) and beta (without).
func store(t testing.TB) *Store {
	t.Helper()
	path := filepath.Join(t.TempDir(), "users")
	err := Edit(path, func(f *File) error {
		return errors.Join(
			f.Add("acme", secret(t, "correct horse", true)),
			f.Add("beta", secret(t, "bätterie ", false)),
		)
	})
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// authenticate runs both sides against each other the way a session does.
func authenticate(server *Exchange, client *Client) error {
	_, message, err := client.Start()
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	for range 10 {
		challenge, done, err := server.Next(message)
		if err != nil {
			return err
		}
		if done {
			if !client.Complete() {
				return errors.New("client: not complete")
			}
			return nil
		}
		if message, err = client.Next(challenge); err != nil {
			return fmt.Errorf("client: %w", err)
		}
		if message == nil {
			message = []byte{}
		}
	}
	return errors.New("no end")
}

func TestMechanisms(t *testing.T) {
	s := store(t)
	all := []string{ScramSHA256, Plain, Login, CramMD5}
	for _, test := range []struct {
		name           string
		user, password string
		mechanisms     []string
		want           error
	}{
		{"the right password", "acme", "correct horse", all, nil},
		{"a wrong password", "acme", "correct horsf", all, ErrDenied},
		{"another's password", "acme", "bätterie ", all, ErrDenied},
		{"a name that is not there", "gamma", "correct horse", all, ErrDenied},
		{"names are not folded", "ACME", "correct horse", all, ErrDenied},
		{"no secret for CRAM-MD5", "beta", "bätterie ", []string{CramMD5}, ErrDenied},
		{"no secret for CRAM-MD5, others work", "beta", "bätterie ", all[:3], nil},
		// The same letter in another composition, and a no-break space: SASLprep
		// makes them one on both sides.
		{"another form of the same characters", "beta", "ba\u0308tterie\u00a0", all[:3], nil},
	} {
		for _, mechanism := range test.mechanisms {
			t.Run(test.name+"/"+mechanism, func(t *testing.T) {
				server, err := s.Server(t.Context(), mechanism, "hub.example.net")
				if err != nil {
					t.Fatal(err)
				}
				client, err := NewClient(mechanism, test.user, test.password)
				if err != nil {
					t.Fatal(err)
				}
				err = authenticate(server, client)
				if !errors.Is(err, test.want) || (err != nil) != (test.want != nil) {
					t.Fatalf("got %v, want %v", err, test.want)
				}
				if server.Claimed() != test.user {
					t.Errorf("claimed %q, want %q", server.Claimed(), test.user)
				}
				if user := server.User(); (user == test.user) != (err == nil) {
					t.Errorf("user %q with error %v", user, err)
				}
				if err != nil {
					// A failed exchange cannot be brought back to life.
					if _, done, err := server.Next([]byte{}); done || err == nil {
						t.Error("a failed exchange went on")
					}
				}
			})
		}
	}
	if _, err := s.Server(t.Context(), "GSSAPI", ""); !errors.Is(err, ErrMechanism) {
		t.Errorf("unknown mechanism: %v", err)
	}
}

// The exchange of RFC 7677, section 3, and that of RFC 2195, section 2.
func TestPublishedVectors(t *testing.T) {
	salt, _ := base64.StdEncoding.DecodeString("W22ZaJ0SNY7soEsUEjb6gQ==")
	stored, server, err := derive("pencil", salt, 4096)
	if err != nil {
		t.Fatal(err)
	}
	sv, _ := scram.SHA256.NewServer(func(string) (scram.StoredCredentials, error) {
		return scram.StoredCredentials{
			KeyFactors: scram.KeyFactors{Salt: string(salt), Iters: 4096},
			StoredKey:  stored[:], ServerKey: server[:],
		}, nil
	})
	c := sv.WithNonceGenerator(func() string { return "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0" }).NewConversation()
	if _, err := c.Step("n,,n=user,r=rOprNGfwEbeRWgbNEkqO"); err != nil {
		t.Fatal(err)
	}
	got, err := c.Step("c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
	if want := "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="; err != nil || got != want {
		t.Errorf("SCRAM-SHA-256: got %q, %v, want %q", got, err, want)
	}

	state, ok := parseCramState(newCramState("tanstaaftanstaaf").String())
	if !ok {
		t.Fatal("the state of CRAM-MD5 cannot be read back")
	}
	if got, want := fmt.Sprintf("%x", state.digest([]byte("<1896.697170952@postoffice.reston.mci.net>"))), "b913a602c7eda7a495b4e6e7334d3890"; got != want {
		t.Errorf("CRAM-MD5: got %s, want %s", got, want)
	}
}

// A key longer than a block is hashed first (RFC 2104, section 2).
func TestCramLongPassword(t *testing.T) {
	long := strings.Repeat("x", 65)
	if newCramState(long).String() == newCramState(long[:64]).String() {
		t.Error("65 and 64 bytes have the same state")
	}
}

func TestMalformedMessages(t *testing.T) {
	s := store(t)
	for _, test := range []struct {
		name, mechanism string
		messages        []string
		want            error
	}{
		{"nothing", Plain, []string{""}, ErrMalformed},
		{"two parts", Plain, []string{"acme\x00correct horse"}, ErrMalformed},
		{"four parts", Plain, []string{"\x00acme\x00correct horse\x00"}, ErrMalformed},
		{"acts for another", Plain, []string{"beta\x00acme\x00correct horse"}, ErrDenied},
		{"a password out of bounds", Plain, []string{"\x00acme\x00" + strings.Repeat("x", maxPassword+1)}, ErrMalformed},
		{"a password that is not UTF-8", Plain, []string{"\x00acme\x00\xff"}, ErrDenied},
		{"an initial response where there is none", CramMD5, []string{"acme 00"}, ErrMalformed},
		{"no GS2 header", ScramSHA256, []string{"n=acme,r=abc"}, ErrMalformed},
		{"channel binding that is not offered", ScramSHA256, []string{"p=tls-exporter,,n=acme,r=abc"}, ErrMalformed},
		{"acts for another", ScramSHA256, []string{"n,a=beta,n=acme,r=abc"}, ErrDenied},
		{"a mandatory extension", ScramSHA256, []string{"n,,m=x,n=acme,r=abc"}, ErrMalformed},
		{"a nonce of its own", ScramSHA256, []string{"n,,n=acme,r=abc", "c=biws,r=abc,p=AAAA"}, ErrMalformed},
		{"no proof", ScramSHA256, []string{"n,,n=acme,r=abc", ""}, ErrMalformed},
	} {
		t.Run(test.mechanism+"/"+test.name, func(t *testing.T) {
			e, err := s.Server(t.Context(), test.mechanism, "hub.example.net")
			if err != nil {
				t.Fatal(err)
			}
			for _, message := range test.messages {
				var done bool
				if _, done, err = e.Next([]byte(message)); done {
					t.Fatal("authenticated")
				}
			}
			if !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

// Somebody who tries names must not learn from salt and iterations which exist.
func TestUnknownUserLooksLikeAKnownOne(t *testing.T) {
	s := store(t)
	first := func(name string) string {
		e, err := s.Server(t.Context(), ScramSHA256, "")
		if err != nil {
			t.Fatal(err)
		}
		challenge, _, err := e.Next([]byte("n,,n=" + name + ",r=abc"))
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(challenge), ",s=") // without the nonce
		return rest
	}
	known, unknown := first("acme"), first("nobody")
	if len(known) != len(unknown) || known[strings.Index(known, ",i="):] != unknown[strings.Index(unknown, ",i="):] {
		t.Errorf("known %q, unknown %q", known, unknown)
	}
	if again := first("nobody"); again != unknown {
		t.Errorf("the salt of an unknown user changes: %q, then %q", unknown, again)
	}
	if other := first("somebody"); other == unknown {
		t.Error("two unknown users have one salt")
	}
	// Nor by what changes while those who exist stay as they are.
	again := func(what string) {
		t.Helper()
		var err error
		if s, err = Open(s.path, Options{}); err != nil {
			t.Fatal(err)
		}
		if got := first("acme"); got != known {
			t.Errorf("%s: the salt of acme changes: %q, then %q", what, known, got)
		}
		if got := first("nobody"); got != unknown {
			t.Errorf("%s: the salt of an unknown user changes: %q, then %q", what, unknown, got)
		}
	}
	again("a restart")
	users := s.Users()
	for _, edit := range []func(*File) error{
		func(f *File) error { return f.Add("another", secret(t, "x", false)) },
		func(f *File) error { return f.Set("another", secret(t, "y", false)) },
		func(f *File) error { return f.Delete(users[len(users)-1].Name) },
	} {
		if err := Edit(s.path, edit); err != nil {
			t.Fatal(err)
		}
		again("an edit")
	}
}

// In a file that was made by hand the salts of unknown users stay too, and its
// first edit does not change them.
func TestSaltsOfAFileMadeByHand(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(path, []byte("acme:"+good+"\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	salt := func() string {
		s, err := Open(path, Options{})
		if err != nil {
			t.Fatal(err)
		}
		secret, known := s.lookup("nobody")
		if known {
			t.Error("nobody is known")
		}
		return string(secret.salt)
	}
	was := salt()
	if salt() != was {
		t.Error("a restart changes the salt")
	}
	if err := Edit(path, func(f *File) error { return f.Set("acme", secret(t, "new", false)) }); err != nil {
		t.Fatal(err)
	}
	if salt() != was {
		t.Error("the first edit changes the salt")
	}
}

// Users with a cost or a salt of another length do not stand out.
func TestShapes(t *testing.T) {
	secrets := map[string]*Secret{}
	for i := range 10 {
		s := &Secret{iterations: 50_000, salt: make([]byte, 16)}
		if i < 3 {
			s = &Secret{iterations: 4096, salt: make([]byte, 40)}
		}
		secrets[fmt.Sprint(i)] = s
	}
	tab := &table{shapes: shapesOf(secrets)}
	odd := 0
	for i := range 1000 {
		s := tab.decoy(fmt.Sprintf("name%d", i))
		if sh := (shape{s.iterations, len(s.salt)}); sh == (shape{4096, 40}) {
			odd++
		} else if sh != (shape{50_000, 16}) {
			t.Fatalf("an unknown user looks like %+v", sh)
		}
	}
	if odd < 200 || odd > 400 {
		t.Errorf("%d of 1000 unknown users look like 3 of 10 known ones", odd)
	}
}

// Whatever is sent in place of a message, the answer does not tell whether the
// user exists.
func TestMalformedForKnownAndUnknown(t *testing.T) {
	s := store(t)
	for mechanism, dialogues := range map[string][][]string{
		ScramSHA256: {{"n,,n=%s,r=abc", ""}, {"n,,n=%s,r=abc", "c=biws,r=abc,p=AAAA"}, {"n,,n=%s,r=abc", "x"}, {"n,,n=%s,r=abc", "c=biws,r=%%,p=AAAA"}, {"n,,n=%s,r=abc", "c=eSws,r=%%,p=" + strings.Repeat("A", 43) + "="}, {"n,,n=%s,r=abc", "c=biws,r=%%,p=" + strings.Repeat("A", 43) + "="}, {"n,a=beta,n=%s,r=abc"}, {"n,,n=%s"}},
		Plain:       {{"\x00%s\x00x"}, {"\x00%s"}, {"\x00%s\x00\xff"}, {"beta\x00%s\x00x"}, {"\x00%s\x00" + strings.Repeat("x", 300)}},
		Login:       {{"%s", "x"}, {"%s", ""}, {"%s", strings.Repeat("x", 300)}},
		CramMD5:     {{"", "%s x"}, {"", "%s "}, {"", "%s"}, {"", "%s 00112233445566778899aabbccddeeff"}},
	} {
		for _, messages := range dialogues {
			var kinds [2]string
			for i, name := range []string{"acme", "nobody"} {
				e, err := s.Server(t.Context(), mechanism, "hub.example.net")
				if err != nil {
					t.Fatal(err)
				}
				var challenge []byte
				for j, message := range messages {
					nonce, _, _ := strings.Cut(strings.TrimPrefix(string(challenge), "r="), ",")
					in := []byte(strings.ReplaceAll(strings.ReplaceAll(message, "%s", name), "%%", nonce))
					if mechanism == CramMD5 && j == 0 {
						in = nil
					}
					var done bool
					if challenge, done, err = e.Next(in); done {
						t.Fatal("authenticated")
					}
				}
				kinds[i] = fmt.Sprint(errors.Is(err, ErrMalformed), errors.Is(err, ErrDenied))
				if err == nil || e.Grant() != (Grant{}) {
					t.Errorf("%s %.60q of %s: %v, %+v", mechanism, messages, name, err, e.Grant())
				}
			}
			if kinds[0] != kinds[1] {
				t.Errorf("%s %.60q: malformed, denied: %v for a known user, %v for an unknown one", mechanism, messages, kinds[0], kinds[1])
			}
		}
	}
}

// What an authentication rests on can go.
func TestGrant(t *testing.T) {
	for _, mechanism := range []string{Plain, Login, CramMD5, ScramSHA256} {
		s := store(t)
		grant := func() Grant {
			c, err := NewClient(mechanism, "acme", "correct horse")
			if err != nil {
				t.Fatal(err)
			}
			e, err := s.Server(t.Context(), mechanism, "hub.example.net")
			if err != nil {
				t.Fatal(err)
			}
			_, message, err := c.Start()
			for done := false; err == nil && !done; {
				var challenge []byte
				if challenge, done, err = e.Next(message); err == nil && !done {
					message, err = c.Next(challenge)
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			return e.Grant()
		}
		g := grant()
		if !s.Stands(g) || s.Stands(Grant{}) {
			t.Errorf("%s: a grant does not stand", mechanism)
		}
		changed := s.Changed()
		if err := s.Reload(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-changed:
		default:
			t.Error("nobody was told")
		}
		if !s.Stands(g) {
			t.Errorf("%s: reading the same file again ends a grant", mechanism)
		}
		for what, edit := range map[string]func(*File) error{
			"a new password": func(f *File) error { return f.Set("acme", secret(t, "correct horse", true)) },
			"removal":        func(f *File) error { return f.Delete("acme") },
		} {
			was, _ := os.ReadFile(s.path)
			if err := errors.Join(Edit(s.path, edit), s.Reload()); err != nil {
				t.Fatal(err)
			}
			if s.Stands(g) {
				t.Errorf("%s: the grant outlives %s", mechanism, what)
			}
			os.WriteFile(s.path, was, 0o640)
			if err := s.Reload(); err != nil || !s.Stands(g) {
				t.Errorf("%s: the grant does not come back: %v", mechanism, err)
			}
		}
	}
}

// The server has to prove that it knows the user, and may not wear out the client.
func TestScramClientDistrustsTheServer(t *testing.T) {
	start := func() *Client {
		c, err := NewClient(ScramSHA256, "acme", "correct horse")
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	nonce := func(c *Client) string {
		_, first, err := c.Start()
		if err != nil {
			t.Fatal(err)
		}
		_, n, _ := strings.Cut(string(first), "r=")
		return n
	}
	t.Run("wrong signature", func(t *testing.T) {
		c := start()
		if _, err := c.Next([]byte("r=" + nonce(c) + "xyz,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096")); err != nil {
			t.Fatal(err)
		}
		if c.Complete() {
			t.Error("complete before the server has proved anything")
		}
		if _, err := c.Next([]byte("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")); err == nil || c.Complete() {
			t.Error("a wrong signature was taken")
		}
	})
	for _, iterations := range []string{"1", "4095", "2000001", "9223372036854775807", "99999999999999999999"} {
		t.Run(iterations+" iterations", func(t *testing.T) {
			c := start()
			if _, err := c.Next([]byte("r=" + nonce(c) + "xyz,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=" + iterations)); err == nil {
				t.Error("taken")
			}
		})
	}
}

func TestBusy(t *testing.T) {
	s := store(t)
	for range cap(s.turn) {
		s.turn <- struct{}{} // others are at it
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	e, err := s.Server(ctx, Plain, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := e.Next([]byte("\x00acme\x00correct horse")); !errors.Is(err, ErrBusy) {
		t.Errorf("got %v, want ErrBusy", err)
	}
}

const good = "{SCRAM-SHA-256}4096$W22ZaJ0SNY7soEsUEjb6gQ==$AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=$AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="

func TestParse(t *testing.T) {
	for _, test := range []struct{ name, line, want string }{
		{"no colon", "acme", "not NAME:SECRET"},
		{"no name", ":" + good, "the name is empty"},
		{"a name with a space", "acme ltd:" + good, `"acme ltd" is not allowed`},
		{"a name that begins with a dot", ".acme:" + good, "is not allowed"},
		{"a name beyond ASCII", "äcme:" + good, "is not allowed"},
		{"a long name", strings.Repeat("a", 65) + ":" + good, "65 bytes long"},
		{"no secret", "acme:", "no secret; set one with"},
		{"a password in the clear", "acme:swordfish", "does not begin with {SCRAM-SHA-256}"},
		{"another scheme", "acme:{SHA512-CRYPT}$6$x", "does not begin with"},
		{"too few parts", "acme:{SCRAM-SHA-256}4096$W22ZaJ0SNY7soEsUEjb6gQ==", "2 parts"},
		{"iterations in letters", "acme:" + strings.Replace(good, "4096", "many", 1), "not a number"},
		{"iterations with a sign", "acme:" + strings.Replace(good, "4096", "+4096", 1), "not a number"},
		{"few iterations", "acme:" + strings.Replace(good, "4096", "4095", 1), "allowed are 4096 to 2000000"},
		{"very many iterations", "acme:" + strings.Replace(good, "4096", "2000001", 1), "allowed are"},
		{"a short salt", "acme:" + strings.Replace(good, "W22ZaJ0SNY7soEsUEjb6gQ==", "W22Z", 1), "the salt"},
		{"a short key", "acme:" + strings.Replace(good, "$AAEC", "$", 1), "the stored key"},
		{"something behind", "acme:" + good + ":x", "does not begin with {CRAM-MD5}"},
		{"a short state", "acme:" + good + ":{CRAM-MD5}00", "64 hex digits"},
		{"no hex", "acme:" + good + ":{CRAM-MD5}" + strings.Repeat("zz", 32), "64 hex digits"},
		{"a third secret", "acme:" + good + ":{CRAM-MD5}" + strings.Repeat("00", 32) + ":x", "64 hex digits"},
		{"carriage return", "acme:" + good + "\r", "carriage return"},
		{"a user twice", "beta:" + good + "\nbeta:" + good, `already in line 2`},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := Parse("users", []byte("# first\n"+test.line+"\n"))
			var problems Errors
			if !errors.As(err, &problems) || len(problems) != 1 {
				t.Fatalf("got %v, want one problem", err)
			}
			if !strings.Contains(err.Error(), test.want) || !strings.HasPrefix(err.Error(), "users:") || problems[0].Line < 2 {
				t.Errorf("got %q, want %q", err, test.want)
			}
			if strings.Contains(err.Error(), "swordfish") || strings.Contains(err.Error(), "AAEC") {
				t.Errorf("the error shows the secret: %q", err)
			}
		})
	}
	t.Run("all problems at once", func(t *testing.T) {
		_, err := Parse("users", []byte("a\nb:\n\n# c\nd:"+good+"\ne:x\n"))
		var problems Errors
		if !errors.As(err, &problems) || len(problems) != 3 || problems[2].Line != 6 {
			t.Errorf("got %v", err)
		}
	})
	t.Run("nothing", func(t *testing.T) {
		if f, err := Parse("users", nil); err != nil || len(f.Users()) != 0 {
			t.Errorf("got %v, %v", f, err)
		}
	})
}

func TestEditsWaitForEachOther(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	s := secret(t, "x", false)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if err := Edit(path, func(f *File) error { return f.Add(fmt.Sprintf("user%d", i), s) }); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	st, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(st.Users()); n != 20 {
		t.Errorf("%d users, want 20", n)
	}
}

func TestOpenAndReload(t *testing.T) {
	s := store(t)
	try := func(user, password string) error {
		e, err := s.Server(t.Context(), Plain, "")
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = e.Next([]byte("\x00" + user + "\x00" + password))
		return err
	}
	was, err := os.ReadFile(s.path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.path, []byte("nonsense\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := s.Reload(); err == nil {
		t.Error("a bad file was taken")
	}
	if err := try("acme", "correct horse"); err != nil {
		t.Errorf("a bad file took the users away: %v", err)
	}
	if err := os.WriteFile(s.path, was, 0o640); err != nil {
		t.Fatal(err)
	}
	err = Edit(s.path, func(f *File) error {
		return errors.Join(f.Delete("acme"), f.Add("gamma", secret(t, "new", false)))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Reload(); err != nil {
		t.Fatal(err)
	}
	if err := try("acme", "correct horse"); !errors.Is(err, ErrDenied) {
		t.Errorf("a deleted user: %v", err)
	}
	if err := try("gamma", "new"); err != nil {
		t.Errorf("a new user: %v", err)
	}

	for _, mode := range []os.FileMode{0o644, 0o642, 0o641} {
		if err := os.Chmod(s.path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(s.path, Options{}); err == nil || !strings.Contains(err.Error(), "chmod o=") {
			t.Errorf("mode %04o: %v", mode, err)
		}
	}
	if _, err := Open(filepath.Join(t.TempDir(), "none"), Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(fifo, Options{}); err == nil || !strings.Contains(err.Error(), "regular") {
		t.Errorf("named pipe: %v", err)
	}
}

func TestNewSecret(t *testing.T) {
	for _, test := range []struct {
		name, password string
		iterations     int
	}{
		{"empty", "", 0},
		{"nothing left of it", "\u00ad", 0},
		{"control character", "a\tb", 0},
		{"not UTF-8", "\xff", 0},
		{"too long", strings.Repeat("x", 256), 0},
		{"too cheap", "x", 4095},
		{"too dear", "x", maxIterations + 1},
	} {
		if _, err := NewSecret(test.password, SecretOptions{Iterations: test.iterations}); err == nil {
			t.Errorf("%s: taken", test.name)
		}
	}
	a, b := secret(t, "x", false), secret(t, "x", false)
	if a.String() == b.String() {
		t.Error("two secrets of one password are the same: the salt is not fresh")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("# comment\n\nacme:" + good + "\n"))
	f.Add([]byte("acme:" + good + ":{CRAM-MD5}" + strings.Repeat("0f", 32)))
	f.Add([]byte("a\x00:{SCRAM-SHA-256}$$$\n:::\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse("users", data)
		if err != nil {
			var problems Errors
			if !errors.As(err, &problems) || len(problems) > maxProblems+1 {
				t.Fatalf("%T with %d problems", err, len(problems))
			}
			return
		}
		// What was read can be written and read again.
		again, err := Parse("users", file.Bytes())
		if err != nil {
			t.Fatalf("written and read again: %v", err)
		}
		a, b := file.Users(), again.Users()
		if fmt.Sprint(a) != fmt.Sprint(b) {
			t.Fatalf("%v became %v", a, b)
		}
	})
}

func FuzzExchange(f *testing.F) {
	for _, m := range []string{ScramSHA256, Plain, Login, CramMD5} {
		f.Add(m, []byte("n,,n=acme,r=abc"), []byte("c=biws,r=abc,p=AAAA"), []byte(""))
		f.Add(m, []byte("\x00acme\x00x"), []byte("acme 0123"), []byte("x"))
	}
	s := store(f)
	f.Fuzz(func(t *testing.T, mechanism string, a, b, c []byte) {
		e, err := s.Server(t.Context(), mechanism, "hub.example.net")
		if err != nil {
			return
		}
		for _, message := range [][]byte{nil, a, b, c} {
			if _, done, err := e.Next(message); done {
				t.Fatalf("authenticated as %q", e.User())
			} else if err != nil && len(err.Error()) > 4*200+100 { // 200 runes, quoted
				t.Fatalf("an error of %d bytes", len(err.Error()))
			}
		}
	})
}

// A server may say anything.
func FuzzClient(f *testing.F) {
	f.Add(ScramSHA256, []byte("r=x,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"), []byte("v=AAAA"))
	f.Add(CramMD5, []byte("<1@x>"), []byte(""))
	f.Add(Login, []byte("Username:"), []byte("Password:"))
	f.Fuzz(func(t *testing.T, mechanism string, a, b []byte) {
		c, err := NewClient(mechanism, "acme", "x")
		if err != nil {
			return
		}
		c.Start()
		for _, challenge := range [][]byte{a, b, a} {
			if _, err := c.Next(challenge); err != nil {
				return
			}
		}
		if mechanism == ScramSHA256 && c.Complete() {
			t.Fatal("a server without the secret proved that it has it")
		}
	})
}

var _ sasl.Client = (*Client)(nil)

// BenchmarkPassword is what one PLAIN login costs.
func BenchmarkPassword(b *testing.B) {
	for b.Loop() {
		derive("correct horse", make([]byte, saltLen), DefaultIterations)
	}
}
