package odmr

import (
	"bufio"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/etrn"
	"github.com/etrnd/etrnd/internal/socket"
)

// How many messages at a time a client is believed to be able to take.
func TestAtATime(t *testing.T) {
	for _, c := range []struct {
		pace socket.Pace
		want int
	}{
		{socket.Pace{}, 0},
		{socket.Pace{RTT: 600 * time.Millisecond}, 0},
		{socket.Pace{RTT: 1800 * time.Millisecond}, 2},
		{socket.Pace{RTT: 1800 * time.Millisecond, Rate: 300}, 2},
		{socket.Pace{RTT: 200 * time.Millisecond, Rate: 4000}, 4},
		{socket.Pace{RTT: 200 * time.Millisecond, Rate: 5600}, 0},
		{socket.Pace{RTT: time.Millisecond, Rate: 1e6}, 0},
	} {
		if got := atATime(c.pace); got != c.want {
			t.Errorf("%+v: %d, want %d", c.pace, got, c.want)
		}
	}
}

// Whoever answers an ETRN hears what the line has shown.
func TestLineOfWhoAsks(t *testing.T) {
	for _, c := range []struct {
		name  string
		pause time.Duration // before each line of the client
		want  int
	}{
		{"thin", time.Second, 2},
		{"fast", time.Millisecond, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := -1
			inBubble(t, ServerOptions{Asker: askFunc(func(_ context.Context, who etrn.Identity, _ string) etrn.Answer {
				got = who.AtATime
				return etrn.Answer{Code: 250}
			})}, func(t *testing.T, p *pipes, _ *running) {
				conn := p.dial()
				defer conn.Close()
				in := bufio.NewReader(conn)
				for _, line := range []string{"EHLO " + strings.Repeat("s", 80) + ".example", "ETRN acme.example"} {
					for {
						reply, err := in.ReadString('\n')
						if err != nil {
							t.Fatal(err)
						}
						if reply[3] == ' ' {
							break
						}
					}
					time.Sleep(c.pause)
					fmt.Fprintf(conn, "%s\r\n", line)
				}
				in.ReadString('\n')
			})
			if got != c.want {
				t.Errorf("%d messages at a time, want %d", got, c.want)
			}
		})
	}
}
