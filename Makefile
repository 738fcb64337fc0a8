# etrnd: targets for builders, testers and packagers.
#
#   make build      bin/etrnd, bin/etrn-milter, bin/etrnctl
#   make demo       a hub, a site and a line between them, on this machine
#   make check      in a minute, without root and Postfix: formatting, vet, unit tests
#   make test       everything, with the race detector, on a real Postfix
#   make fuzz       every fuzz target for a moment, FUZZ=5m for five minutes
#   make lint       formatting, vet, staticcheck, scripts, man pages, units
#   make bench      benchmarks: functions, and mail over emulated thin links
#   make install    DESTDIR= PREFIX=/usr/local
#   make packages   dist/*.deb and dist/*.rpm
#
# demo, test, bench and lint install what they need on a Debian machine (as root, the
# first time); the list is packaging/test-deps.

PREFIX     ?= /usr/local
DESTDIR    ?=
sbindir    = $(PREFIX)/sbin
bindir     = $(PREFIX)/bin
unitdir    = $(PREFIX)/lib/systemd/system
sysusersdir = $(PREFIX)/lib/sysusers.d
tmpfilesdir = $(PREFIX)/lib/tmpfiles.d
mandir     = $(PREFIX)/share/man
docdir     = $(PREFIX)/share/doc/etrnd
sharedir   = $(PREFIX)/share/etrnd

# An environment without PATH and HOME (cron, CI, env -i) is enough. Go is
# found where packaging/get-go or its own archive puts it, Postfix in sbin.
export HOME := $(or $(HOME),$(shell getent passwd "$$(id -u)" | cut -d: -f6),/root)
export PATH := $(HOME)/.cache/etrnd/go/bin:$(if $(PATH),$(PATH):)/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
# The version is stamped below, so that a checkout of another user, or none
# at all, builds as well.
export GOFLAGS := $(strip $(GOFLAGS) $(if $(findstring -buildvcs,$(GOFLAGS)),,-buildvcs=false))

GO       ?= go
VERSION  := $(shell packaging/version)
LDFLAGS  = -s -w -X main.version=$(VERSION)
COMMANDS = etrnd etrn-milter etrnctl
MANPAGES = $(wildcard packaging/man/*.[1-9])
NFPM     = $(GO) run github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.43.4

.PHONY: all build deps demo check fuzz test lint bench install packages clean
all: build

build:
	@mkdir -p bin
	@set -e; for c in $(COMMANDS); do \
		CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/$$c ./cmd/$$c; \
	done

deps:
	@packaging/deps

demo: deps
	@$(GO) run ./internal/demo

# Needs Go and nothing else, and so no deps.
check:
	@packaging/check

# The packages that take longest come first. The time limit is for each package,
# with the waiting for its turn: it is for what hangs, and a test says so before
# (internal/hang). -count=1: a result from before Postfix was upgraded says
# nothing. Fuzzing comes first, so that the last lines are those of the tests.
# On a machine with something else to do, and in the other Debian release:
# packaging/under-load, packaging/other-release.
test: deps
	@packaging/fuzz
	$(GO) test -race -count=1 -timeout 90m ./internal/scenario ./internal/interop ./...

# FUZZ="5m milter": how long each, and which.
fuzz:
	@packaging/fuzz $(FUZZ)

bench: deps
	$(GO) test -run '^$$' -bench . -benchmem -timeout 30m ./...
	@$(GO) run ./internal/bench $(BENCHFLAGS)

# Every check runs, and all complaints come at once.
lint: deps
	@packaging/lint $(if $(MANPAGES),$(MANPAGES))

# /usr/sbin and /usr/bin in the units become the directories of PREFIX.
install: build
	install -d $(addprefix $(DESTDIR),$(sbindir) $(bindir) $(unitdir) \
		$(sysusersdir) $(tmpfilesdir) $(docdir) $(sharedir))
	install -m 755 bin/etrnd bin/etrn-milter $(DESTDIR)$(sbindir)/
	install -m 755 bin/etrnctl $(DESTDIR)$(bindir)/
	set -e; for u in packaging/systemd/*.service; do \
		sed -e 's,/usr/sbin/etrn,$(sbindir)/etrn,g' -e 's,/usr/bin/etrn,$(bindir)/etrn,g' $$u \
			>$(DESTDIR)$(unitdir)/$${u##*/}; \
		chmod 644 $(DESTDIR)$(unitdir)/$${u##*/}; \
	done
	install -m 644 packaging/sysusers.conf $(DESTDIR)$(sysusersdir)/etrnd.conf
	install -m 644 packaging/tmpfiles.conf $(DESTDIR)$(tmpfilesdir)/etrnd.conf
	set -e; for m in $(MANPAGES); do \
		install -D -m 644 $$m $(DESTDIR)$(mandir)/man$${m##*.}/$${m##*/}; \
	done
	install -d $(DESTDIR)$(docdir)/docs
	install -m 644 $(wildcard *.md) LICENSE $(DESTDIR)$(docdir)/
	install -m 644 $(wildcard docs/*.md docs/*.toml) $(DESTDIR)$(docdir)/docs/
	ln -sfn ../../etrnd/contrib $(DESTDIR)$(docdir)/contrib
	packaging/copyright >$(DESTDIR)$(docdir)/copyright
	chmod 644 $(DESTDIR)$(docdir)/copyright
	cp -R contrib $(DESTDIR)$(sharedir)/
	rm -f $(DESTDIR)$(sharedir)/contrib/*.go

packages:
	rm -rf dist/root
	$(MAKE) install DESTDIR=$(CURDIR)/dist/root PREFIX=/usr
	find dist/root/usr/share/man -type f -exec gzip -9nf {} +
	VERSION=$(VERSION) ARCH=$$($(GO) env GOARCH) $(NFPM) package -f packaging/nfpm.yaml -p deb -t dist/
	VERSION=$(VERSION) ARCH=$$($(GO) env GOARCH) $(NFPM) package -f packaging/nfpm.yaml -p rpm -t dist/
	rm -rf dist/root

clean:
	rm -rf bin dist
