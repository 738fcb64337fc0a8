package etrnd

import (
	"context"
	"fmt"
	"net"
	"os/user"
	"strconv"

	"github.com/etrnd/etrnd/etrnd/deliver"
	"github.com/etrnd/etrnd/etrnd/login"
	"github.com/etrnd/etrnd/etrnd/odmr"
	"github.com/etrnd/etrnd/etrnd/policy"
	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/config"
	"github.com/etrnd/etrnd/internal/etrn"
	"github.com/etrnd/etrnd/internal/listen"
	"github.com/etrnd/etrnd/internal/report"
)

// service is something that serves on a listener until its context ends.
type service struct {
	name  string // in the status, and of a socket that systemd passes
	spec  string
	opts  listen.Options
	only  func(uid int) bool // who is let in on a unix socket; nil: serve decides
	serve func(context.Context, net.Listener) error
	ln    net.Listener // once open
}

type services []service

func (list services) close() {
	for _, s := range list {
		if s.ln != nil {
			s.ln.Close()
		}
	}
}

// open opens the listeners of all services, or none. They are those of the
// configuration at the start: a reload opens and closes none.
func (d *Daemon) open(ctx context.Context) (services, error) {
	list, err := d.services(d.running)
	if err != nil {
		return nil, err
	}
	var listeners []api.Listener
	for i := range list {
		s := &list[i]
		s.opts.Name, s.opts.Sockets, s.opts.Logger = s.name, d.o.Sockets, d.log
		if s.ln, err = listen.Listen(ctx, s.spec, s.opts); err != nil {
			list.close()
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		if _, isUnix := s.ln.Addr().(*net.UnixAddr); isUnix && s.only != nil {
			s.ln = listen.Only(s.ln, s.only, d.log)
		}
		listeners = append(listeners, api.Listener{Name: s.name, Address: address(s.spec, s.ln)})
	}
	d.mu.Lock()
	d.listeners = listeners
	d.mu.Unlock()
	return list, nil
}

func address(spec string, l net.Listener) string {
	if _, ok := l.Addr().(*net.UnixAddr); ok {
		return spec
	}
	return l.Addr().String()
}

func (d *Daemon) services(cfg *config.Config) (services, error) {
	list := services{
		{name: "control", spec: cfg.Control.Listen, opts: listen.Options{Mode: 0o666}, serve: d.control.Serve},
		{name: "report", spec: cfg.Milter.Report, opts: reportSocket(), serve: report.NewServer(report.ServerOptions{Handle: d.report, UIDs: milterUIDs(), Logger: d.log}).Serve},
	}
	rights := &policy.Server{Asker: d.hold, Relay: d.mayRelay, Logger: d.log}
	if path := cfg.LoginSocket(); path != "" {
		server := &login.Server{
			Hostname: cfg.Hostname, Users: d.users, CramMD5: cfg.ODMR.CRAMMD5, Logger: d.log,
			May: func(user string) bool { return d.mayRelay(etrn.Identity{User: user}) },
		}
		rights.Login = server.Stands
		list = append(list, service{name: "login", spec: "unix:" + path, opts: listen.Options{Mode: 0o666}, only: d.mtaUser.is, serve: server.Serve})
	}
	if cfg.Policy.Listen != "" {
		list = append(list, service{name: "policy", spec: cfg.Policy.Listen, opts: listen.Options{Mode: 0o666}, only: d.mtaUser.is, serve: rights.Serve})
	}
	if len(cfg.ODMR.Listen) > 0 {
		server, err := odmr.NewServer(odmr.ServerOptions{
			Hostname: cfg.Hostname, Asker: d.hold, Turner: d.turner(cfg), Users: d.users, CramMD5: cfg.ODMR.CRAMMD5, Certificate: d.cert, Logger: d.log,
			MaxConnections: cfg.ODMR.MaxConns, MaxConnectionsPerClient: cfg.ODMR.MaxConnsPerClient,
			CommandTimeout: cfg.ODMR.CommandTimeout, SessionTimeout: cfg.ODMR.SessionTimeout,
		})
		if err != nil {
			return nil, fmt.Errorf("odmr: %w", err)
		}
		for _, spec := range cfg.ODMR.Listen {
			list = append(list, service{name: "odmr", spec: spec, serve: server.Serve})
		}
	}
	return list, nil
}

// mayRelay reports whether somebody may send mail through the MTA, by the
// configuration in force.
func (d *Daemon) mayRelay(who etrn.Identity) bool { return d.hold.Queues().MayRelay(who) }

// turner serves ATRN. Without users nobody can ask, and the listener says that
// it has no ATRN.
func (d *Daemon) turner(cfg *config.Config) odmr.Turner {
	if d.users == nil {
		return nil
	}
	return deliver.New(deliver.Options{Hostname: cfg.Hostname, Hold: d.hold, Socket: cfg.TurnSocket, MTA: d.mtaUser.is, Logger: d.log})
}

// milterUser is the account of etrn-milter, and the name of its group, that the
// package creates.
const milterUser = "etrn-milter"

// reportSocket is open to the milter's group where there is one. Whoever else
// could write to it could make a call wait for mail that is not coming, but
// neither read nor lose any.
func reportSocket() listen.Options {
	o := listen.Options{Mode: 0o660}
	if g, err := user.LookupGroup(milterUser); err == nil {
		o.Group = g.Gid
	}
	return o
}

func milterUIDs() []int {
	u, err := user.Lookup(milterUser)
	if err != nil {
		return nil
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return nil
	}
	return []int{uid}
}
