package postfix

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/mta"
)

func TestParseListing(t *testing.T) {
	cases := map[string]struct {
		in   string
		want []mta.Message
		bad  int
	}{
		"empty queue": {"", nil, 0},
		// A line as Postfix 3.7 writes it, with two held recipients.
		"held": {
			`{"queue_name": "deferred", "queue_id": "981A998403C", "arrival_time": 1795437243, "message_size": 293, "forced_expire": false, "sender": "a@client.example", "recipients": [{"address": "a@acme.example", "delay_reason": "deferred transport"}, {"address": "b@beta.example"}]}` + "\n",
			[]mta.Message{{ID: "981A998403C", Queue: "deferred", Arrived: time.Unix(1795437243, 0), Size: 293, Sender: "a@client.example",
				Recipients: []mta.Recipient{{Address: "a@acme.example", Reason: mta.ReasonHeld}, {Address: "b@beta.example", Reason: ""}}}}, 0,
		},
		// Keys of a later Postfix, of any type, are passed over.
		"unknown keys": {
			`{"queue_id":"A1","new":{"x":[1,null]},"queue_name":"active","message_size":1,"arrival_time":1}`,
			[]mta.Message{{ID: "A1", Queue: "active", Arrived: time.Unix(1, 0), Size: 1}}, 0,
		},
		// Bytes that are no UTF-8, a quoted local part with an "@", an empty
		// sender: the message counts all the same.
		"odd addresses": {
			"{\"queue_id\":\"A1\",\"queue_name\":\"hold\",\"sender\":\"\",\"recipients\":[{\"address\":\"\\\"a@b\\\"@acme.example\"},{\"address\":\"caf\xe9@acme.example\"}]}\n",
			[]mta.Message{{ID: "A1", Queue: "hold", Recipients: []mta.Recipient{{Address: `"a@b"@acme.example`, Reason: ""}, {Address: "caf\ufffd@acme.example", Reason: ""}}}}, 0,
		},
		// What is no message costs its own line only.
		"junk between": {
			"postqueue: warning: x\n{\"queue_id\":\"A1\"}\n{\"queue_id\":\"-f\"}\n{\"queue_id\":\"A2\",\"message_size\":-1}\n{\"queue_id\":\"A3\",\"arrival_time\":1e99}\n{\n\n{\"queue_id\":\"A4\"}",
			[]mta.Message{{ID: "A1"}, {ID: "A4"}}, 5,
		},
		// An attempt that led to where mail for nobody waits has changed nothing.
		"for nobody": {
			`{"queue_name": "deferred", "queue_id": "A1", "arrival_time": 1, "message_size": 1, "forced_expire": false, "sender": "x", "recipients": [{"address": "a@gone.example", "delay_reason": "connect to hub.example[` + NobodySocket + `]: No such file or directory"}]}`,
			[]mta.Message{{ID: "A1", Queue: "deferred", Arrived: time.Unix(1, 0), Size: 1, Sender: "x", Recipients: []mta.Recipient{{Address: "a@gone.example", Reason: mta.ReasonNobody}}}}, 0,
		},
		// Reasons hold text of remote servers and are cut between characters.
		"long reason": {
			`{"queue_id":"A1","recipients":[{"address":"a@b.example","delay_reason":"` + strings.Repeat("é", 300) + `"}]}`,
			[]mta.Message{{ID: "A1", Recipients: []mta.Recipient{{Address: "a@b.example", Reason: strings.Repeat("é", maxReason/2)}}}}, 0,
		},
		// A line beyond the bound is dropped, and the next one read.
		"long line": {
			`{"queue_id":"A1","sender":"` + strings.Repeat("x", maxListingLine) + "\"}\n{\"queue_id\":\"A2\"}\n",
			[]mta.Message{{ID: "A2"}}, 1,
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var got []mta.Message
			var bad int
			err := parseListing(strings.NewReader(c.in), func(m mta.Message) {
				m.Recipients = slices.Clone(m.Recipients)
				got = append(got, m)
			}, func(error) { bad++ })
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, c.want) || bad != c.bad {
				t.Errorf("got %d bad lines and\n%+v, want %d and\n%+v", bad, got, c.bad, c.want)
			}
		})
	}
}

// FuzzListing: whatever a listing holds, ids can be used as arguments, sizes
// are not negative, and there are no more messages than lines.
func FuzzListing(f *testing.F) {
	f.Add([]byte(`{"queue_name": "deferred", "queue_id": "981A998403C", "arrival_time": 1795437243, "message_size": 293, "sender": "", "recipients": [{"address": "a@acme.example", "delay_reason": "x"}]}` + "\n"))
	f.Add([]byte("{\"queue_id\":\"\xff\"}\n{}\n[]\nnull\n\"\"\n"))
	f.Add([]byte(`{"queue_id":"A","arrival_time":"1","message_size":1.5}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		n, bad := 0, 0
		err := parseListing(strings.NewReader(string(in)), func(m mta.Message) {
			n++
			if err := checkID(m.ID); err != nil || m.Size < 0 {
				t.Fatalf("let through: %+v (%v)", m, err)
			}
		}, func(error) { bad++ })
		if err != nil {
			t.Fatal(err)
		}
		if lines := strings.Count(string(in), "\n") + 1; n+bad > lines {
			t.Fatal(fmt.Errorf("%d messages and %d bad lines from %d lines", n, bad, lines))
		}
	})
}

// FuzzQuick: the quick way to read a line says what the other one says, or
// nothing.
func FuzzQuick(f *testing.F) {
	for _, line := range []string{
		`{"queue_name": "deferred", "queue_id": "A1", "arrival_time": 1, "message_size": 1, "forced_expire": false, "sender": "x", "recipients": [{"address": "a@gone.example", "delay_reason": "connect to x[` + NobodySocket + `]: No such file"}]}`,
		`{"queue_name": "deferred", "queue_id": "981A998403C", "arrival_time": 1795437243, "message_size": 293, "forced_expire": false, "sender": "a@client.example", "recipients": [{"address": "a@acme.example", "delay_reason": "deferred transport"}, {"address": "b@beta.example"}]}`,
		`{"queue_name": "active", "queue_id": "A", "arrival_time": 0, "message_size": 1, "sender": "", "recipients": []}`,
		`{"queue_name": "hold", "queue_id": "A", "arrival_time": 01, "message_size": 1, "forced_expire": true, "sender": "", "recipients": [{"address": "x"}, ]}`,
		`{"queue_name": "hold", "queue_id": "A", "arrival_time": 1, "message_size": 1, "sender": "\u0041", "recipients": [{"address": "x", "delay_reason": "` + strings.Repeat("x", 300) + `"}]} `,
	} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		got, ok := quick(line, mta.Message{})
		if !ok {
			return
		}
		want, err := parseMessage(line)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v\nwant\n%+v\n(%v)", got, want, err)
		}
	})
}

// BenchmarkListing reads a listing of 10,000 held messages.
func BenchmarkListing(b *testing.B) {
	var all strings.Builder
	for i := range 10000 {
		fmt.Fprintf(&all, `{"queue_name": "deferred", "queue_id": "4c%011dz", "arrival_time": 1795437243, "message_size": 293, "forced_expire": false, "sender": "a@client.example", "recipients": [{"address": "somebody%d@customer%05d.example", "delay_reason": "deferred transport"}]}`+"\n", i, i, i%1000)
	}
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		if err := parseListing(strings.NewReader(all.String()), func(mta.Message) { n++ }, func(err error) { b.Fatal(err) }); err != nil || n != 10000 {
			b.Fatal(n, err)
		}
	}
}
