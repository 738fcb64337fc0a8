package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/hang"
	"github.com/etrnd/etrnd/internal/listen"
)

// childSocket makes the test binary a client of that socket, to be run as
// another user.
const childSocket = "ETRND_TEST_CHILD_SOCKET"

func TestMain(m *testing.M) {
	if s := os.Getenv(childSocket); s != "" {
		_, err := NewClient(ClientOptions{Socket: s, Timeout: hang.Limit}).Queues(context.Background())
		if err == nil {
			fmt.Println("allowed")
			os.Exit(0)
		}
		var e *api.Error
		if !errors.As(err, &e) {
			e = api.Errorf(1, "", "%v", err)
		}
		fmt.Printf("%s; %s\n", e.Message, e.Hint)
		os.Exit(e.Exit)
	}
	os.Exit(m.Run())
}

// backend answers with what the test puts in.
type backend struct {
	mu    sync.Mutex
	calls []string // what was asked

	status  api.Status
	queues  func(context.Context) ([]api.Queue, error)
	release func(context.Context, string) ([]api.Released, error)
	watch   func(context.Context, []string) (<-chan api.CallEvent, error)
	err     error
}

func (b *backend) note(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls = append(b.calls, fmt.Sprintf(format, args...))
}

func (b *backend) Status(context.Context) api.Status { return b.status }

// Queues yields all of them in one place, as a backend may.
func (b *backend) Queues(ctx context.Context) (iter.Seq[*api.Queue], error) {
	list, err := []api.Queue(nil), b.err
	if b.queues != nil {
		list, err = b.queues(ctx)
	}
	return func(yield func(*api.Queue) bool) {
		var one api.Queue
		for _, one = range list {
			if !yield(&one) {
				return
			}
		}
	}, err
}

func (b *backend) Nobody(context.Context) (api.Nobody, error) {
	return api.Nobody{Messages: 2, Bytes: 5, Domains: []api.NobodyDomain{{Domain: "gone.example", Messages: 2, Bytes: 5}}, More: 1}, b.err
}

func (b *backend) Release(ctx context.Context, name string) ([]api.Released, error) {
	b.note("release %q", name)
	if b.release == nil {
		return []api.Released{{Queue: "acme", Messages: 3, Bytes: 4096}}, b.err
	}
	return b.release(ctx, name)
}

func (b *backend) LinkUp(_ context.Context, ev api.LinkEvent) ([]api.CallRef, error) {
	b.note("link up %+v", ev)
	return []api.CallRef{{Call: "c1", Remote: "hub", Link: "isp"}}, b.err
}

func (b *backend) LinkDown(_ context.Context, ev api.LinkEvent) error {
	b.note("link down %+v", ev)
	return b.err
}

func (b *backend) Call(_ context.Context, remote string) (api.CallRef, error) {
	b.note("call %q", remote)
	return api.CallRef{Call: "c2", Remote: remote, Link: "isp"}, b.err
}

func (b *backend) HangUp(_ context.Context, link string) error {
	b.note("hang up %q", link)
	return b.err
}

func (b *backend) Watch(ctx context.Context, calls []string) (<-chan api.CallEvent, error) {
	if b.watch == nil {
		return nil, api.Errorf(api.ExitUsage, "", "no call %q", calls)
	}
	return b.watch(ctx, calls)
}

func (b *backend) History(_ context.Context, n int) ([]api.CallResult, error) {
	b.note("history %d", n)
	return []api.CallResult{{CallRef: api.CallRef{Call: "c0"}, Line: api.Seconds(1500 * time.Millisecond)}}, b.err
}

func (b *backend) Reload(context.Context) ([]string, error) {
	b.note("reload")
	return []string{"a warning"}, b.err
}

// serve runs a server on a socket that anybody may connect to, until the test
// ends. stop ends it earlier and returns what Serve returned.
func serve(t testing.TB, o Options) (socket string, stop func() error) {
	t.Helper()
	dir, err := os.MkdirTemp("", "etrnd") // t.TempDir is private, and its path too long
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket = filepath.Join(dir, "control.sock")
	ln, err := net.Listen("unix", socket)
	if err == nil {
		err = errors.Join(os.Chmod(dir, 0o755), os.Chmod(socket, 0o666))
	}
	if err != nil {
		t.Fatal(err)
	}
	return socket, serveOn(t, o, ln)
}

func serveOn(t testing.TB, o Options, ln net.Listener) (stop func() error) {
	t.Helper()
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- NewServer(o).Serve(ctx, ln) }()
	stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-done:
			return err
		case <-hang.After():
			return fmt.Errorf("Serve has not returned within %v", hang.Limit)
		}
	})
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return stop
}

func client(t *testing.T, socket string) *Client {
	c := NewClient(ClientOptions{Socket: "unix:" + socket, Timeout: hang.Limit})
	t.Cleanup(c.Close)
	return c
}

func within(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-hang.After():
		t.Fatalf("%v have passed, and not: %s", hang.Limit, what)
	}
}

// What the backend says is what the client hears, and what the client asks is
// what the backend is asked.
func TestRoundTrip(t *testing.T) {
	at := time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)
	queues := []api.Queue{
		{Name: "acme", Messages: 2, Bytes: 1 << 40, Oldest: &at, Open: true, OpenUntil: &at, UnderWay: 1, Failed: 1, Domains: []string{"acme.example"}, Deliver: "smtp:[mail.acme.example]"},
		{Name: "empty", Domains: []string{".beta.example"}, Deliver: "smtp:[b.example]"},
	}
	b := &backend{
		status: api.Status{
			Version: "1", PID: 7, Started: at, Uptime: api.Seconds(90 * time.Second), MTA: api.MTAStatus{Type: "postfix", Reconciled: &at},
			Listen: []api.Listener{{Name: "odmr", Address: "[::]:366"}}, Links: []api.Link{{Name: "isp", State: api.LinkUp, Since: &at, Interface: "ppp0", Remotes: []string{"hub"}}},
			Calls: []api.CallEvent{{CallRef: api.CallRef{Call: "c1"}, Time: at, Phase: api.PhasePushing, Waiting: "2 messages", In: api.Progress{Expected: -1}}}, Warnings: []string{"w"},
		},
		queues: func(context.Context) ([]api.Queue, error) { return queues, nil },
	}
	socket, _ := serve(t, Options{Backend: b})
	c, ctx := client(t, socket), t.Context()

	if got, err := c.Status(ctx); err != nil || !reflect.DeepEqual(got, b.status) {
		t.Errorf("Status: got\n%+v (%v), want\n%+v", got, err, b.status)
	}
	if got, err := c.Queues(ctx); err != nil || !reflect.DeepEqual(got, queues) {
		t.Errorf("Queues: got %+v (%v), want %+v", got, err, queues)
	}
	if got, err := c.Nobody(ctx); err != nil || got.Messages != 2 || got.More != 1 || len(got.Domains) != 1 || got.Domains[0].Domain != "gone.example" {
		t.Errorf("Nobody: got %+v (%v)", got, err)
	}
	if got, err := c.Release(ctx, "@acme.example"); err != nil || len(got) != 1 || got[0] != (api.Released{Queue: "acme", Messages: 3, Bytes: 4096}) {
		t.Errorf("Release: got %+v (%v)", got, err)
	}
	if got, err := c.LinkUp(ctx, api.LinkEvent{Interface: "ppp0"}); err != nil || len(got) != 1 || got[0].Call != "c1" {
		t.Errorf("LinkUp: got %+v (%v)", got, err)
	}
	if err := c.LinkDown(ctx, api.LinkEvent{Link: "isp"}); err != nil {
		t.Errorf("LinkDown: %v", err)
	}
	if got, err := c.Call(ctx, "hub"); err != nil || got != (api.CallRef{Call: "c2", Remote: "hub", Link: "isp"}) {
		t.Errorf("Call: got %+v (%v)", got, err)
	}
	if err := c.HangUp(ctx, "isp"); err != nil {
		t.Errorf("HangUp: %v", err)
	}
	if got, err := c.History(ctx, 12); err != nil || len(got) != 1 || got[0].Line != api.Seconds(1500*time.Millisecond) {
		t.Errorf("History: got %+v (%v)", got, err)
	}
	if got, err := c.Reload(ctx); err != nil || len(got) != 1 || got[0] != "a warning" {
		t.Errorf("Reload: got %q (%v)", got, err)
	}
	want := []string{`release "@acme.example"`, "link up {Link: Interface:ppp0}", "link down {Link:isp Interface:}", `call "hub"`, `hang up "isp"`, "history 12", "reload"}
	if !reflect.DeepEqual(b.calls, want) {
		t.Errorf("the backend was asked\n%q, want\n%q", b.calls, want)
	}
}

// The fields of queues that scripts rely on, as JSON.
func TestQueueJSON(t *testing.T) {
	got, err := json.Marshal(api.Queue{Name: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"name":"acme","messages":0,"bytes":0,"oldest":null,`; !strings.HasPrefix(string(got), want) {
		t.Errorf("got %s, want it to begin with %s", got, want)
	}
}

// The group can be changed by a reload, and connections that are open obey.
func TestSetGroup(t *testing.T) {
	stranger := caller{Peer: listen.Peer{UID: 47110, Groups: []int{0}}}
	if e := mayAct(stranger, "root"); e != nil {
		t.Errorf("a member of the group root: %v", e)
	}
	s := NewServer(Options{Backend: &backend{}, Group: "root"})
	h := s.handler(nil)
	ask := func() int {
		r := httptest.NewRequest("GET", "/v1/queues", nil)
		r = r.WithContext(context.WithValue(r.Context(), callerKey{}, stranger))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code
	}
	if got := ask(); got != http.StatusOK {
		t.Errorf("before: status %d", got)
	}
	s.SetGroup("games")
	if got := ask(); got != http.StatusForbidden {
		t.Errorf("after: status %d", got)
	}
}

// Those who may not act fill no disk by asking.
func TestRefusedSeldom(t *testing.T) {
	var log bytes.Buffer
	s := NewServer(Options{Backend: &backend{}, Group: "games", Logger: slog.New(slog.NewTextHandler(&log, nil))})
	h := s.handler(nil)
	stranger := caller{Peer: listen.Peer{UID: 47110, Groups: []int{0}}}
	for range 5000 {
		r := httptest.NewRequest("POST", "/v1/reload", strings.NewReader("{}"))
		h.ServeHTTP(httptest.NewRecorder(), r.WithContext(context.WithValue(r.Context(), callerKey{}, stranger)))
	}
	if n := strings.Count(log.String(), "\n"); n < 10 || n > 200 {
		t.Errorf("%d lines for 5,000 requests that were refused", n)
	}
}

// On a socket without peer credentials, nobody may do anything: not even root
// over loopback.
func TestTCP(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, Options{Backend: &backend{}, Group: "games"}, ln)
	rsp, err := http.Get("http://" + ln.Addr().String() + "/v1/status")
	if err != nil {
		t.Fatal(err)
	}
	defer rsp.Body.Close()
	body, _ := io.ReadAll(rsp.Body)
	if rsp.StatusCode != http.StatusForbidden || !strings.Contains(string(body), "cannot tell who is asking") {
		t.Errorf("got %d %s", rsp.StatusCode, body)
	}
}

// An error keeps its text, hint, details and exit code on its way.
func TestErrors(t *testing.T) {
	bad := &api.Error{Message: "the configuration is bad; the one of before stays in force", Details: []string{"f:1: x", "f:2: y"}, Hint: "mend it", Exit: api.ExitConfig}
	for _, c := range []struct {
		name string
		err  error
		want *api.Error
	}{
		{"as it is", bad, bad},
		// The outer text is the whole one.
		{"wrapped", fmt.Errorf("reload: %w", bad), &api.Error{Message: "reload: " + bad.Message, Details: bad.Details, Hint: bad.Hint, Exit: api.ExitConfig}},
		// An error that nobody classified may pass.
		{"plain", errors.New("postqueue: killed"), &api.Error{Message: "postqueue: killed", Exit: api.ExitTempFail}},
		// An error is never a success.
		{"no exit code", &api.Error{Message: "oops"}, &api.Error{Message: "oops", Exit: api.ExitTempFail}},
		{"refused by the remote", api.Errorf(api.ExitUnavailable, "", "no"), &api.Error{Message: "no", Exit: api.ExitUnavailable}},
	} {
		t.Run(c.name, func(t *testing.T) {
			socket, _ := serve(t, Options{Backend: &backend{err: c.err}})
			_, err := client(t, socket).Reload(t.Context())
			var e *api.Error
			if !errors.As(err, &e) || !reflect.DeepEqual(e, c.want) {
				t.Errorf("got %#v, want %#v", err, c.want)
			}
		})
	}
}

// A panic of the backend costs one answer.
func TestPanic(t *testing.T) {
	var log bytes.Buffer
	b := &backend{release: func(context.Context, string) ([]api.Released, error) { panic("boom") }}
	socket, stop := serve(t, Options{Backend: b, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	c := client(t, socket)
	_, err := c.Release(t.Context(), "acme")
	var e *api.Error
	if !errors.As(err, &e) || e.Exit != api.ExitTempFail {
		t.Errorf("got %v", err)
	}
	if _, err := c.Queues(t.Context()); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	if err := stop(); err != nil { // the log is not written to any longer
		t.Error(err)
	}
	if !strings.Contains(log.String(), "panic=boom") || !strings.Contains(log.String(), "control_test.go") {
		t.Errorf("the log lacks the panic or its stack:\n%s", &log)
	}
}

// A backend that takes its time is not cut short by the deadline for reading
// requests: net/http ends the request's context when that strikes.
func TestSlowBackend(t *testing.T) {
	t.Parallel()
	const read = 2 * time.Second // in which a request has to come, of a busy client too
	b := &backend{release: func(ctx context.Context, _ string) ([]api.Released, error) {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(2 * read):
			return nil, nil
		}
	}}
	b.queues = func(ctx context.Context) ([]api.Queue, error) {
		_, err := b.release(ctx, "")
		return nil, err
	}
	socket, _ := serve(t, Options{Backend: b, ReadTimeout: read})
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := client(t, socket).Release(t.Context(), "acme"); err != nil {
			t.Errorf("Release: %v", err)
		}
	})
	wg.Go(func() {
		if _, err := client(t, socket).Queues(t.Context()); err != nil {
			t.Errorf("Queues: %v", err)
		}
	})
	wg.Wait()
}

// A client that goes away ends the context of what it asked.
func TestClientGone(t *testing.T) {
	begun, ended := make(chan struct{}), make(chan struct{})
	b := &backend{release: func(ctx context.Context, _ string) ([]api.Released, error) {
		close(begun)
		<-ctx.Done()
		close(ended)
		return nil, ctx.Err()
	}}
	socket, _ := serve(t, Options{Backend: b})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := client(t, socket).Release(ctx, "acme")
		done <- err
	}()
	within(t, "the backend is asked", begun)
	cancel()
	within(t, "its context ends", ended)
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

// Events come one by one as they happen, and the last of each call ends it.
func TestWatch(t *testing.T) {
	events := make(chan api.CallEvent)
	var asked []string
	b := &backend{watch: func(_ context.Context, calls []string) (<-chan api.CallEvent, error) {
		asked = calls
		return events, nil
	}}
	socket, _ := serve(t, Options{Backend: b})
	got := make(chan api.CallEvent)
	done := make(chan error, 1)
	go func() {
		done <- client(t, socket).Watch(t.Context(), []string{"c1", "c 2&"}, func(ev api.CallEvent) error {
			got <- ev
			return nil
		})
	}()
	for i, ev := range []api.CallEvent{
		{CallRef: api.CallRef{Call: "c1"}, Phase: api.PhaseMTA, Waiting: "the local SMTP listener"},
		{CallRef: api.CallRef{Call: "c 2&"}, Phase: api.PhaseReceiving, In: api.Progress{Messages: 1, Bytes: 2048, Expected: 14}},
		{CallRef: api.CallRef{Call: "c1"}, Phase: api.PhaseDone, Result: &api.CallResult{Exit: api.ExitUnavailable, Error: "no ETRN"}},
		{CallRef: api.CallRef{Call: "c 2&"}, Phase: api.PhaseDone, Result: &api.CallResult{Line: api.Seconds(time.Minute)}},
	} {
		events <- ev
		// It is here before the next one is even sent.
		select {
		case g := <-got:
			if !reflect.DeepEqual(g, ev) {
				t.Errorf("event %d: got %+v, want %+v", i, g, ev)
			}
		case <-hang.After():
			t.Fatalf("event %d has not come within 10 seconds", i)
		}
	}
	// The server has not closed the stream; the client knows by itself.
	if err := <-done; err != nil {
		t.Errorf("Watch: %v", err)
	}
	if !reflect.DeepEqual(asked, []string{"c1", "c 2&"}) {
		t.Errorf("asked for %q", asked)
	}
}

// A stream ends before the call: by the client, by the daemon, by a client
// that stops reading, by the function that takes the events.
func TestWatchCut(t *testing.T) {
	type watched struct {
		socket string
		stop   func() error
		ended  chan struct{} // the backend's context
	}
	start := func(t *testing.T, o Options, next func(int) (api.CallEvent, bool)) watched {
		ended := make(chan struct{})
		o.Backend = &backend{watch: func(ctx context.Context, _ []string) (<-chan api.CallEvent, error) {
			c := make(chan api.CallEvent)
			go func() {
				defer close(ended)
				defer close(c)
				for i := 0; ; i++ {
					ev, ok := next(i)
					if !ok {
						<-ctx.Done()
						return
					}
					select {
					case c <- ev:
					case <-ctx.Done():
						return
					}
				}
			}()
			return c, nil
		}}
		socket, stop := serve(t, o)
		return watched{socket, stop, ended}
	}
	one := func(i int) (api.CallEvent, bool) {
		return api.CallEvent{CallRef: api.CallRef{Call: "c1"}, Phase: api.PhasePushing}, i < 1
	}

	t.Run("client cancels", func(t *testing.T) {
		w := start(t, Options{}, one)
		ctx, cancel := context.WithCancel(t.Context())
		err := client(t, w.socket).Watch(ctx, []string{"c1"}, func(api.CallEvent) error { cancel(); return nil })
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		within(t, "the backend is told", w.ended)
	})
	t.Run("daemon stops", func(t *testing.T) {
		// A stream does not hold up the end: stop would not wait for so long.
		w := start(t, Options{DrainTimeout: 2 * hang.Limit}, one)
		err := client(t, w.socket).Watch(t.Context(), []string{"c1"}, func(api.CallEvent) error { go w.stop(); return nil })
		stopped := w.stop()
		var e *api.Error
		if !errors.As(err, &e) || e.Exit != api.ExitTempFail || e.Message != "etrnd is stopping" {
			t.Errorf("got %v", err)
		}
		if stopped != nil {
			t.Errorf("Serve returned %v", stopped)
		}
	})
	t.Run("client stops reading", func(t *testing.T) {
		pad := strings.Repeat("x", 8<<10)
		w := start(t, Options{WriteTimeout: 100 * time.Millisecond}, func(int) (api.CallEvent, bool) { return api.CallEvent{Waiting: pad}, true })
		c, err := net.Dial("unix", w.socket)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprint(c, "GET /v1/watch?call=c1 HTTP/1.1\r\nHost: x\r\n\r\n")
		within(t, "the backend is told", w.ended)
		if _, err := client(t, w.socket).Queues(t.Context()); err != nil {
			t.Errorf("others meanwhile: %v", err)
		}
	})
	t.Run("function fails", func(t *testing.T) {
		w := start(t, Options{}, one)
		mine := errors.New("enough")
		if err := client(t, w.socket).Watch(t.Context(), []string{"c1"}, func(api.CallEvent) error { return mine }); err != mine {
			t.Errorf("got %v", err)
		}
		within(t, "the backend is told", w.ended)
	})
	t.Run("backend ends early", func(t *testing.T) {
		c := make(chan api.CallEvent)
		close(c)
		socket, _ := serve(t, Options{Backend: &backend{watch: func(context.Context, []string) (<-chan api.CallEvent, error) { return c, nil }}})
		err := client(t, socket).Watch(t.Context(), []string{"c1"}, func(api.CallEvent) error { return nil })
		var e *api.Error
		if !errors.As(err, &e) || e.Exit != api.ExitTempFail || !strings.Contains(e.Message, "went away before the call had ended") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("unknown call", func(t *testing.T) {
		socket, _ := serve(t, Options{Backend: &backend{}})
		err := client(t, socket).Watch(t.Context(), []string{"c9"}, func(api.CallEvent) error { return nil })
		var e *api.Error
		if !errors.As(err, &e) || e.Exit != api.ExitUsage {
			t.Errorf("got %v", err)
		}
	})
}

// Requests that no etrnctl makes. Each is refused in JSON, and none reaches
// the backend.
func TestBadRequests(t *testing.T) {
	b := &backend{}
	socket, _ := serve(t, Options{Backend: b})
	long := strings.Repeat("x", maxName+1)
	for _, c := range []struct {
		name, method, path, body string
		status                   int
		says                     string
	}{
		{"unknown path", "GET", "/v9/status", "", 404, `does not know the request \"GET\" \"/v9/status\"`},
		{"wrong method", "DELETE", "/v1/queues", "", 404, "does not know"},
		{"no body", "POST", "/v1/release", "", 400, "cannot be read: EOF"},
		{"not JSON", "POST", "/v1/release", "acme", 400, "cannot be read"},
		{"wrong type", "POST", "/v1/release", `{"name":7}`, 400, "cannot be read"},
		{"unknown field", "POST", "/v1/release", `{"queue":"acme"}`, 400, "unknown field"},
		{"two values", "POST", "/v1/release", `{"name":"acme"}{"name":"beta"}`, 400, "more than one value"},
		{"junk behind", "POST", "/v1/release", `{"name":"acme"}]`, 400, "cannot be read"},
		{"no name", "POST", "/v1/release", `{}`, 400, "no queue is named"},
		{"long name", "POST", "/v1/call", `{"remote":"` + long + `"}`, 400, "513 bytes long"},
		{"body too large", "POST", "/v1/reload", `{"x":"` + strings.Repeat("x", maxBody) + `"}`, 400, "too large"},
		{"no link", "POST", "/v1/link-up", `{}`, 400, "neither a link nor an interface"},
		{"long interface", "POST", "/v1/link-down", `{"interface":"` + long + `"}`, 400, "longer than"},
		{"null", "POST", "/v1/hang-up", `null`, 400, "no link is named"},
		{"history of words", "GET", "/v1/history?n=all", "", 400, `n is \"all\"`},
		{"history of none", "GET", "/v1/history?n=0", "", 400, "from 1 to"},
		{"history of too many", "GET", "/v1/history?n=10001", "", 400, "from 1 to"},
		{"watch nothing", "GET", "/v1/watch", "", 400, "0 calls"},
		{"watch too many", "GET", "/v1/watch?" + strings.Repeat("call=c&", maxWatched+1), "", 400, "257 calls"},
		{"watch long", "GET", "/v1/watch?call=" + long, "", 400, "bytes long"},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, err := net.Dial("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(hang.Deadline())
			fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", c.method, c.path, len(c.body), c.body)
			rsp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(rsp.Body)
			var e api.Error
			if err := json.Unmarshal(body, &e); err != nil || e.Exit != api.ExitUsage {
				t.Errorf("%s: %v", body, err)
			}
			if rsp.StatusCode != c.status || !strings.Contains(string(body), c.says) {
				t.Errorf("got %d %s, want %d %s", rsp.StatusCode, body, c.status, c.says)
			}
		})
	}
	if len(b.calls) > 0 {
		t.Errorf("the backend was asked %q", b.calls)
	}
}

// Clients that send junk, dawdle, or open what they can are put off, and
// others are answered meanwhile.
func TestBadClients(t *testing.T) {
	t.Parallel()
	const read = 2 * time.Second // in which a request has to come, of a busy client too
	for _, c := range []struct {
		name string
		send string
	}{
		{"silence", ""},
		{"half a request", "GET /v1/status HT"},
		{"no end of headers", "GET /v1/status HTTP/1.1\r\nHost: x\r\n"},
		{"half a body", "POST /v1/release HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"},
		{"junk", strings.Repeat("\xff\x00junk", 2000)},
		{"NULs", strings.Repeat("\x00", 9999) + "\r\n\r\n"},
		{"endless header", "GET / HTTP/1.1\r\nX: " + strings.Repeat("x", 4*maxHeader)},
		{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"},
		{"SMTP", "EHLO mail.acme.example\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			socket, _ := serve(t, Options{Backend: &backend{}, ReadTimeout: read})
			conn, err := net.Dial("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, c.send) // may be cut off half-way, as it should
			if _, err := client(t, socket).Queues(t.Context()); err != nil {
				t.Errorf("another client meanwhile: %v", err)
			}
			// The server closes the connection by itself.
			_ = conn.SetReadDeadline(hang.Deadline())
			if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the connection is still open after %v", hang.Limit)
			}
		})
	}

	t.Run("too many of one user", func(t *testing.T) {
		t.Parallel()
		socket, _ := serve(t, Options{Backend: &backend{}, ReadTimeout: 2 * hang.Limit})
		var conns []net.Conn
		for range maxPerUser {
			c, err := net.Dial("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			conns = append(conns, c)
		}
		extra, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer extra.Close()
		_ = extra.SetReadDeadline(hang.Deadline())
		if n, err := extra.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("one more than the limit: read %d bytes (%v), want it closed", n, err)
		}
		// One that closes makes room, and is noticed when the server reads.
		conns[0].Close()
		deadline := hang.Deadline()
		for {
			if _, err := client(t, socket).Queues(t.Context()); err == nil {
				break
			} else if time.Now().After(deadline) {
				t.Fatalf("%v after one was closed: %v", hang.Limit, err)
			}
		}
	})

	t.Run("silence at the end", func(t *testing.T) {
		t.Parallel()
		// net/http waits for a silent client until it is five seconds old. The
		// best of some, since a busy machine may be slow, but only by chance.
		const tries = 5
		for i := range tries {
			socket, stop := serve(t, Options{Backend: &backend{}, ReadTimeout: 2 * hang.Limit, DrainTimeout: 2 * hang.Limit})
			c, err := net.Dial("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := client(t, socket).Queues(t.Context()); err != nil {
				t.Fatal(err)
			}
			begun := time.Now()
			if err := stop(); err != nil {
				t.Fatalf("Serve returned %v", err)
			}
			if took := time.Since(begun); took < 3*time.Second {
				return
			} else if i == tries-1 {
				t.Errorf("it took %v to stop beside a silent client, and no less in %d tries", took, tries)
			}
		}
	})
}

// A request that is under way when the daemon stops is answered; one that
// does not end is told to.
func TestShutdown(t *testing.T) {
	begun, finish := make(chan struct{}), make(chan struct{})
	b := &backend{release: func(ctx context.Context, name string) ([]api.Released, error) {
		begun <- struct{}{}
		if name == "stubborn" {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		<-finish
		return []api.Released{{Queue: name}}, nil
	}}
	type reply struct {
		r   []api.Released
		err error
	}
	ask := func(socket, name string) chan reply {
		c := make(chan reply, 1)
		go func() {
			r, err := client(t, socket).Release(t.Context(), name)
			c <- reply{r, err}
		}()
		within(t, "the backend is asked for "+name, begun)
		return c
	}
	socket, stop := serve(t, Options{Backend: b, DrainTimeout: 2 * hang.Limit})
	hasty, stopHasty := serve(t, Options{Backend: b, DrainTimeout: 50 * time.Millisecond})
	good, stubborn := ask(socket, "acme"), ask(hasty, "stubborn")
	stopped := make(chan error, 2)
	go func() { stopped <- stop() }()
	go func() { stopped <- stopHasty() }()
	// No new requests: the socket is gone.
	deadline := hang.Deadline()
	for {
		if _, err := os.Stat(socket); err != nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatal("the socket is still there")
		}
		time.Sleep(time.Millisecond)
	}
	close(finish)
	if r := <-good; r.err != nil || len(r.r) != 1 {
		t.Errorf("the request under way: %v", r.err)
	}
	if r := <-stubborn; r.err == nil {
		t.Error("the stubborn request succeeded")
	}
	for range 2 {
		if err := <-stopped; err != nil {
			t.Errorf("Serve: %v", err)
		}
	}
}

// A listener that fails is an error.
func TestListenerFails(t *testing.T) {
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	if err := NewServer(Options{Backend: &backend{}}).Serve(t.Context(), ln); err == nil {
		t.Error("no error")
	}
}

// Each way in which there can be no answer has a sentence and an exit code.
func TestUnreachable(t *testing.T) {
	dir := t.TempDir()
	gone := filepath.Join(dir, "dead")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: gone})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false) // as after kill -9
	ln.Close()

	answer := func(name, text string) string {
		path := filepath.Join(dir, name)
		ln, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				_ = c.SetDeadline(hang.Deadline())
				if text == "" {
					_, _ = io.Copy(io.Discard, c) // until the client gives up
				} else {
					_, _ = c.Read(make([]byte, 4096))
					_, _ = io.WriteString(c, text)
				}
				c.Close()
			}
		})
		t.Cleanup(func() { ln.Close(); wg.Wait() })
		return path
	}
	reply := func(status, body string) string {
		return fmt.Sprintf("HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s", status, len(body), body)
	}

	for _, c := range []struct {
		name, socket string
		exit         int
		says         string
	}{
		{"no socket", filepath.Join(dir, "none"), api.ExitTempFail, "there is no socket " + dir},
		{"no directory", filepath.Join(dir, "no", "such"), api.ExitTempFail, "there is no socket"},
		{"nobody listens", gone, api.ExitTempFail, "nobody listens on " + gone},
		{"a file", os.Args[0], api.ExitTempFail, "nobody listens on"},
		{"path too long", "/" + strings.Repeat("x", 120), api.ExitUsage, "cannot be the path of a socket"},
		{"hangs", answer("hangs", ""), api.ExitTempFail, "has not answered within 200ms"},
		{"closes", answer("closes", "\n"), api.ExitTempFail, ""},
		{"another protocol", answer("smtp", "220 mail.acme.example ESMTP\r\n"), api.ExitTempFail, ""},
		{"another HTTP server", answer("http", reply("404 Not Found", "<html>")), api.ExitTempFail, "is no answer of etrnd"},
		{"a proxy's page", answer("page", reply("200 OK", "<html>")), api.ExitTempFail, "cannot be read"},
		{"a wrong type", answer("type", reply("200 OK", `{"name":1}`)), api.ExitTempFail, "cannot be read"},
		{"half a reply", answer("half", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n["), api.ExitTempFail, "closed the connection"},
		{"an error without exit code", answer("zero", reply("500 Oops", `{"error":"oops"}`)), api.ExitTempFail, "oops"},
	} {
		t.Run(c.name, func(t *testing.T) {
			timeout := hang.Limit
			if c.name == "hangs" {
				timeout = 200 * time.Millisecond
			}
			cl := NewClient(ClientOptions{Socket: c.socket, Timeout: timeout})
			defer cl.Close()
			_, err := cl.Queues(t.Context())
			var e *api.Error
			if !errors.As(err, &e) || e.Exit != c.exit || !strings.Contains(e.Message, c.says) {
				t.Errorf("got %#v, want %q, exit %d", err, c.says, c.exit)
			}
		})
	}
}

// Whatever is asked is answered in JSON, with an error where it is one.
func FuzzHandler(f *testing.F) {
	for _, s := range []struct{ method, path, body string }{
		{"GET", "/v1/status", ""},
		{"GET", "/v1/history?n=5", ""},
		{"GET", "/v1/history?n=%00", ""},
		{"POST", "/v1/release", `{"name":"acme"}`},
		{"POST", "/v1/link-up", `{"interface":"ppp0"}`},
		{"POST", "/v1/link-down", `{"link":"isp","link":"isp2"}`},
		{"POST", "/v1/call", `{"remote":"\u0000"}`},
		{"POST", "/v1/hang-up", `[[[[[[[[`},
		{"GET", "/v1/watch?call=c1&call=c2", ""},
		{"GET", "/../v1//status", ""},
		{"\x00", "/", "\xff"},
	} {
		f.Add(s.method, s.path, s.body)
	}
	h := NewServer(Options{Backend: &backend{}}).handler(nil)
	f.Fuzz(func(t *testing.T, method, path, body string) {
		r, err := http.NewRequest(method, "http://etrnd"+path, strings.NewReader(body))
		if err != nil {
			return
		}
		r = r.WithContext(context.WithValue(t.Context(), callerKey{}, caller{Peer: listen.Peer{UID: 0}}))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		switch {
		case w.Code == http.StatusOK && json.Valid(w.Body.Bytes()):
		case w.Code >= 300 && w.Code < 400: // the mux cleans a path
		default:
			var e api.Error
			if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || e.Exit == 0 || e.Message == "" || w.Code >= 500 {
				t.Errorf("%s %q %q: %d %q", method, path, body, w.Code, w.Body)
			}
		}
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Whatever comes in a stream, Watch returns, and without an error only if the
// call has ended.
func FuzzWatch(f *testing.F) {
	f.Add([]byte(`{"event":{"call":"c1","phase":"pushing"}}` + "\n" + `{"event":{"call":"c1","result":{}}}` + "\n"))
	f.Add([]byte(`{"error":{"error":"etrnd is stopping","exit":75}}`))
	f.Add([]byte(`{"event":{"call":"c1","in":{"bytes":1e99}}}`))
	f.Add([]byte("{}\n\n\x00\n"))
	f.Add([]byte(`{"event":{"line_seconds":1e400}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := NewClient(ClientOptions{})
		c.http.Transport = roundTrip(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(bytes.NewReader(b))}, nil
		})
		ended := false
		err := c.Watch(t.Context(), []string{"c1"}, func(ev api.CallEvent) error {
			ended = ended || ev.Call == "c1" && ev.Result != nil
			return nil
		})
		if (err == nil) != ended {
			t.Errorf("%q: error %v, ended %t", b, err, ended)
		}
	})
}

// Ten thousand queues are an answer like any other; one that breaks off on the way
// is none.
func TestManyQueues(t *testing.T) {
	const n = 10000
	fail := false
	at := time.Unix(1e9, 0).UTC()
	b := &many{backend: &backend{}, queues: func(yield func(*api.Queue) bool) {
		var q api.Queue
		for i := range n {
			if fail && i == n/2 {
				panic("a fault")
			}
			q = api.Queue{Name: fmt.Sprintf("q%d", i), Messages: i, Oldest: &at, Domains: []string{"a.example", "<b>"}}
			if !yield(&q) {
				return
			}
		}
	}}
	socket, _ := serve(t, Options{Backend: b})
	got, err := client(t, socket).Queues(t.Context())
	if err != nil || len(got) != n {
		t.Fatalf("%d queues, %v", len(got), err)
	}
	for i, q := range got {
		if q.Name != fmt.Sprintf("q%d", i) || q.Messages != i || q.Oldest == nil || !q.Oldest.Equal(at) || len(q.Domains) != 2 {
			t.Fatalf("queue %d is %+v", i, q)
		}
	}
	fail = true
	if got, err := client(t, socket).Queues(t.Context()); err == nil {
		t.Errorf("half an answer was taken: %d queues", len(got))
	}
}

// many is a backend whose queues are made one by one.
type many struct {
	*backend
	queues iter.Seq[*api.Queue]
}

func (m *many) Queues(context.Context) (iter.Seq[*api.Queue], error) { return m.queues, nil }
