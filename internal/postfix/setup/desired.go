package setup

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/etrnd/etrnd/internal/postfix"
	"github.com/etrnd/etrnd/internal/postfix/conffile"
)

// desired is what Postfix's files have to say for some Requirements.
type desired struct {
	elements []element         // that lists of main.cf have to have
	values   map[string]string // settings of main.cf that have one value
	entries  []string          // of master.cf
	tables   map[string]table  // by name

	routes   []route // of the table, in its order
	fallback string  // next hop of all that has no other, or empty

	passwords passwords // with which mail is pushed

	warnings
}

// warnings are what a postmaster should look at before the change is made;
// none of them makes it impossible.
type warnings []string

func (w *warnings) warn(format string, args ...any) { *w = append(*w, fmt.Sprintf(format, args...)) }

// element is one element of a list.
type element struct {
	list, text string
	front      bool // goes before what is there
	gate       bool // goes before what refuses to relay, see gateOf
	last       bool // one word that stays behind what is there
}

// lists are those that the set-up adds to, in the order in which they are
// edited: one that refers to another by default comes after it.
var lists = []string{
	"defer_transports", "transport_maps", "relay_domains", "fast_flush_domains",
	"smtpd_etrn_restrictions", "smtpd_milters", "non_smtpd_milters",
	"milter_connect_macros", "milter_mail_macros", "milter_end_of_data_macros",
	"milter_header_checks", "address_verify_transport_maps",
	"smtpd_relay_restrictions", "smtpd_recipient_restrictions",
}

// environment is what desired depends on beside the Requirements: what the
// postmaster has set, and what Postfix was built with.
type environment struct {
	*files
	old      *record           // of the set-up that there is; never nil
	settings map[string]string // effective
	defaults map[string]string // of lists, unexpanded
	kind     string            // of our tables with keys
	// locals are those of many domains for which Postfix is itself the
	// destination.
	locals func(ctx context.Context, domains []string) (map[string]bool, error)
}

func look(ctx context.Context, pf *postfix.Instance, f *files) (*environment, error) {
	env := &environment{files: f, old: f.record, locals: pf.Locals}
	if env.old == nil {
		env.old = &record{}
	}
	var err error
	if env.defaults, err = pf.Defaults(ctx, lists...); err != nil {
		return nil, err
	}
	env.settings, err = pf.Settings(ctx, append(append(slices.Clone(lists), "queue_directory", "parent_domain_matches_subdomains",
		"relay_recipient_maps", "sender_dependent_default_transport_maps", "relay_clientcerts", "smtpd_tls_fingerprint_digest", "default_database_type", "recipient_delimiter",
		"smtpd_sasl_auth_enable", "smtpd_tls_security_level", "smtpd_use_tls", "smtpd_enforce_tls", "smtpd_tls_cert_file", "smtpd_tls_eccert_file", "smtpd_tls_dcert_file", "smtpd_tls_chain_files",
		"smtp_tls_security_level", "smtp_tls_CAfile", "smtp_tls_CApath"), append(slices.Clone(around), reuseSettings...)...)...)
	if err != nil {
		return nil, err
	}
	switch types, err := pf.TableTypes(ctx); {
	case err == nil:
		env.kind = keyedKind(types, env.settings["default_database_type"])
	case f.kind(routeTable) != "":
		// Postfix does not read this main.cf; "postfix check" says why.
		env.kind = f.kind(routeTable)
	default:
		return nil, err
	}
	return env, nil
}

func (env *environment) list(setting string) []string { return conffile.Words(env.settings[setting]) }

// derivation works out what is desired, one subject after the other.
type derivation struct {
	desired
	req    Requirements
	env    *environment
	logins map[string]heldService // the transport of a next hop that wants a login
}

func newDerivation(req Requirements, env *environment) *derivation {
	return &derivation{req: req, env: env, desired: desired{values: map[string]string{}, tables: map[string]table{}}}
}

func derive(ctx context.Context, req Requirements, env *environment) (*desired, error) {
	if req.Transport == "" {
		req.Transport = DefaultTransport
	}
	d := newDerivation(req, env)
	if err := d.logIn(); err != nil {
		return nil, err
	}
	if err := d.hold(); err != nil {
		return nil, err
	}
	if err := d.accept(ctx); err != nil {
		return nil, err
	}
	d.answerProbes()
	d.answerETRN()
	d.reportToMilter()
	if err := d.split(); err != nil {
		return nil, err
	}
	d.fingerprintClients()
	d.letRelay()
	return &d.desired, nil
}

func (d *desired) need(list, text string) {
	d.elements = append(d.elements, element{list: list, text: text})
}

func (d *desired) needFirst(list, text string) {
	d.elements = append(d.elements, element{list: list, text: text, front: true})
}

func (d *desired) needLast(list, text string) {
	d.elements = append(d.elements, element{list: list, text: text, last: true})
}

func (d *desired) setAll(values map[string]string) { maps.Copy(d.values, values) }

// option is an option of an entry of master.cf whose value is a path or a name
// that somebody chose.
func option(name, value string) string {
	value = strings.ReplaceAll(value, "$", "$$")
	if strings.ContainsAny(value, " \t,{}") {
		return "{ " + name + " = " + value + " }"
	}
	return name + "=" + value
}

// entry is the text of an entry of master.cf: its columns, and its options.
func entry(columns string, options ...string) string {
	var text strings.Builder
	text.WriteString(columns + "\n")
	for _, o := range options {
		text.WriteString("        -o " + o + "\n")
	}
	return text.String()
}
