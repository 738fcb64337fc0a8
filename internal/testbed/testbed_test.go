package testbed

import (
	"testing"
	"time"
)

func TestMailCrossesALink(t *testing.T) {
	ctx := t.Context()
	bed := Start(t)
	t0 := time.Now()
	lap := func(s string) { t.Log(s, time.Since(t0)); t0 = time.Now() }
	hub, err := bed.Host(ctx, "hub", HostOptions{Hostname: "hub.example.net"})
	if err != nil {
		t.Fatal(err)
	}
	lap("host")
	site, err := bed.Host(ctx, "site", HostOptions{Hostname: "mail.acme.example"})
	if err != nil {
		t.Fatal(err)
	}
	lap("host")
	if _, err := hub.Postfix(ctx, PostfixOptions{Main: map[string]string{
		"relay_domains": "acme.example", "transport_maps": "inline:{acme.example=smtp:[mail.acme.example]}",
	}}); err != nil {
		t.Fatal(err)
	}
	lap("postfix")
	if _, err := site.Postfix(ctx, PostfixOptions{Final: []string{"acme.example"}}); err != nil {
		t.Fatal(err)
	}
	lap("postfix")
	link, err := bed.Link(ctx, LinkOptions{
		A: End{Host: site, Address: "192.0.2.2"}, B: End{Host: hub, Address: "192.0.2.1"},
		Shape: Shape{RTT: 20 * time.Millisecond, Rate: 1e6},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := link.Up(ctx); err != nil {
		t.Fatal(err)
	}
	lap("link")
	var ms []Message
	for range 20 {
		ms = append(ms, Message{To: []string{"a@acme.example"}})
	}
	ids, err := hub.SendMany(ctx, "", ms)
	if err != nil {
		t.Fatal(err)
	}
	lap("send")
	n, err := site.WaitDelivered(ctx, ids)
	if err != nil || n != 0 {
		t.Fatal(n, err)
	}
	lap("delivered")
	out, err := site.Run(ctx, "bash", "-c", "ip addr; ip route; cat /etc/hosts; ps ax; postconf -n | head -3; su -s /bin/sh etrnd -c 'postqueue -p'; touch /usr/x; mount | head -40; cat /var/log/mail.log")
	t.Log(out, err)
}
