package config

import (
	"reflect"
	"slices"
	"testing"
)

// Every key that stands in one table only changes under its own name, and under
// no other: what is not known here would come into force, or not, without a word.
func TestChangesOfEveryKey(t *testing.T) {
	want := map[string]bool{}
	for _, k := range keys {
		switch {
		case repeated(k.table):
			want[k.table] = true
		case k.table == "":
			want[k.name] = true
		default:
			want[k.table+": "+k.name] = true
		}
	}
	got := map[string]bool{}
	var change func(v reflect.Value, c *Config)
	change = func(v reflect.Value, c *Config) {
		for i := range v.NumField() {
			f := v.Field(i)
			if !f.CanSet() {
				continue
			}
			if f.Kind() == reflect.Struct {
				change(f, c)
				continue
			}
			old := reflect.New(f.Type()).Elem()
			old.Set(f)
			switch f.Kind() {
			case reflect.String:
				f.SetString("changed")
			case reflect.Bool:
				f.SetBool(!f.Bool())
			case reflect.Int, reflect.Int64:
				f.SetInt(f.Int() + 1)
			case reflect.Slice:
				f.Set(reflect.MakeSlice(f.Type(), 1, 1))
			default:
				t.Fatalf("a field of kind %s", f.Kind())
			}
			names := Changes(&Config{}, c)
			if name := v.Type().Field(i).Name; len(names) > 1 || len(names) == 0 && name != "File" && name != "Warnings" {
				t.Errorf("%s has changed: %q", name, names)
			}
			for _, n := range names {
				got[n] = true
			}
			f.Set(old)
		}
	}
	c := &Config{}
	change(reflect.ValueOf(c).Elem(), c)
	if !reflect.DeepEqual(got, want) {
		for n := range want {
			if !got[n] {
				t.Errorf("no field for the key %q", n)
			}
		}
		for n := range got {
			if !want[n] {
				t.Errorf("no key for the field %q", n)
			}
		}
	}
}

// What is read again without a change has none.
func TestChanges(t *testing.T) {
	parse := func(text string) *Config {
		t.Helper()
		c, err := Parse("etrnd.toml", []byte(text), WithoutFiles())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	const text = "hostname = \"hub.example.net\"\n[odmr]\n[[queue]]\nname = \"acme\"\ndomains = [\"acme.example\"]\ndeliver = \"smtp:[127.0.0.1]\"\nclients = [\"192.0.2.0/24\"]\n"
	for _, tt := range []struct {
		text string
		want []string
	}{
		{text, nil},
		{"# a comment\n" + text, nil},
		// Said aloud, a default is no change.
		{"log-format = \"text\"\n" + text, nil},
		{"log-format = \"json\"\n" + text + "users = [\"acme\"]\n", []string{"log-format", "queue"}},
		{text + "[milter]\nlisten = \"unix:/run/x\"\n", []string{"milter: listen"}},
	} {
		if got := Changes(parse(text), parse(tt.text)); !slices.Equal(got, tt.want) {
			t.Errorf("changes %q, want %q, in\n%s", got, tt.want, tt.text)
		}
	}
	// Exceptions are made of keys and of tables.
	a, b := parse(text), parse("log-format = \"json\"\n"+text+"users = [\"acme\"]\n[milter]\nlisten = \"unix:/run/x\"\nheader = \"X-Y\"\n[mta]\nsmtp = \"127.0.0.1:26\"\nsplit = \"127.0.0.1:10366\"\n")
	if got, want := Changes(a, b, "queue", "mta", "milter: header"), []string{"log-format", "milter: listen"}; !slices.Equal(got, want) {
		t.Errorf("with exceptions: %q, want %q", got, want)
	}
}
