//go:build !quick

package odmr

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/hang"
)

// The same with a server that nobody here wrote.
func TestOpenSSL(t *testing.T) {
	dir := t.TempDir()
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), "openssl", args...).CombinedOutput(); err != nil {
			t.Fatalf("openssl %v: %v\n%s", args, err, out)
		}
	}
	pair := func(name, digest string) (cert, key string) {
		cert, key = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
		run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "30", "-"+digest, "-subj", "/CN="+hostname, "-addext", "subjectAltName=DNS:"+hostname)
		return cert, key
	}
	sha, shaKey := pair("sha256", "sha256")
	md5, md5Key := pair("md5", "md5")
	for name, c := range map[string]struct {
		cert, key string
		args      []string
		clear     bool // under auto
		problem   string
	}{
		"good": {sha, shaKey, nil, false, "nobody known here"},
		// The server looks for a way to sign that both know, and does not say for what.
		"RSA-MD5":          {md5, md5Key, nil, true, "no certificate"},
		"RSA key exchange": {sha, shaKey, []string{"-tls1_2", "-cipher", "AES128-SHA:@SECLEVEL=0"}, false, "no cipher, no key exchange"},
		"DHE key exchange": {sha, shaKey, []string{"-tls1_2", "-cipher", "DHE-RSA-AES128-GCM-SHA256:@SECLEVEL=0"}, true, "no cipher, no key exchange"},
		"TLS 1.0":          {sha, shaKey, []string{"-tls1", "-cipher", "ALL:@SECLEVEL=0"}, false, "no version of TLS"},
	} {
		t.Run(name, func(t *testing.T) {
			addr := handshaker(t, func(conn net.Conn) (net.Conn, error) {
				return viaOpenSSL(t, conn, append([]string{"-cert", c.cert, "-key", c.key}, c.args...))
			})
			o := ClientOptions{Config: &tls.Config{RootCAs: pki().roots, ServerName: hostname}}
			client, err := Dial(t.Context(), addr, o)
			if err != nil {
				t.Fatalf("auto: %v", err)
			}
			if clear := client.InTheClear(); (clear != nil) != c.clear {
				t.Errorf("auto: in the clear because of %v", clear)
			}
			if replies, err := client.Request(t.Context(), []string{"acme.example"}); err != nil || replies[0].Code != 250 {
				t.Errorf("auto: %v, %v", replies, err)
			}
			client.Quit()
			o.TLS = TLSRequire
			if _, err = Dial(t.Context(), addr, o); err == nil {
				t.Fatal("require: no error")
			}
			if what, _ := TLSProblem(err); !strings.Contains(what, c.problem) {
				t.Errorf("require: %v is explained as %q; want %q", err, what, c.problem)
			}
		})
	}
}

// viaOpenSSL lets openssl s_server do the TLS of one connection.
func viaOpenSSL(t *testing.T, conn net.Conn, args []string) (net.Conn, error) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := free.Addr().String()
	free.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, "openssl", append([]string{"s_server", "-quiet", "-naccept", "1", "-accept", addr}, args...)...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		cancel()
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		cancel()
		return nil, err
	}
	var inner net.Conn
	for deadline := hang.Deadline(); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if inner, err = net.Dial("tcp", addr); err == nil {
			break
		}
	}
	if err != nil {
		cancel()
		return nil, err
	}
	// Ciphertext between the client and s_server, plaintext by its pipes.
	go func() { io.Copy(inner, conn); inner.Close() }()
	go func() { io.Copy(conn, inner); conn.Close(); cancel(); cmd.Wait() }()
	return piped{conn, stdout, stdin}, nil
}

type piped struct {
	net.Conn
	r io.Reader
	w io.WriteCloser
}

func (p piped) Read(b []byte) (int, error)  { return p.r.Read(b) }
func (p piped) Write(b []byte) (int, error) { return p.w.Write(b) }
