package config

import (
	"reflect"
	"slices"
	"strings"
	"unicode"
)

// Changes names the keys that differ between two configurations, as messages
// about the file do: "log-format", "odmr: listen". Of the tables that may be
// there several times the name of the table says enough: "queue". Those that
// except names, as keys or as whole tables, are left out.
//
// It goes by the fields of Config, so that no key can be forgotten here: a new
// one is a change until somebody makes an exception of it.
func Changes(a, b *Config, except ...string) (names []string) {
	was, is := reflect.ValueOf(a).Elem(), reflect.ValueOf(b).Elem()
	for i := range was.NumField() {
		f := was.Type().Field(i)
		if !f.IsExported() || f.Name == "File" || f.Name == "Warnings" {
			continue // no keys of the file
		}
		name := keyName(f)
		if f.Type.Kind() == reflect.Slice {
			name = strings.TrimSuffix(name, "s") // [[queue]] is Queues
		}
		switch {
		case slices.Contains(except, name): // nor looked at: there may be ten thousand
		case f.Type.Kind() == reflect.Struct:
			table := name + ": "
			for j := range f.Type.NumField() {
				if !equal(was.Field(i).Field(j), is.Field(i).Field(j)) {
					names = append(names, table+keyName(f.Type.Field(j)))
				}
			}
		case !equal(was.Field(i), is.Field(i)):
			names = append(names, name)
		}
	}
	return slices.DeleteFunc(names, func(name string) bool {
		table, _, _ := strings.Cut(name, ": ")
		return slices.Contains(except, name) || slices.Contains(except, table)
	})
}

func equal(a, b reflect.Value) bool { return reflect.DeepEqual(a.Interface(), b.Interface()) }

// keyName is the key that a field is for: "TLSCert" is "tls-cert". Where the two
// are not spelled alike a tag has the key.
func keyName(field reflect.StructField) string {
	if key := field.Tag.Get("key"); key != "" {
		return key
	}
	var b strings.Builder
	letters := []rune(field.Name)
	for i, r := range letters {
		if i > 0 && unicode.IsUpper(r) && (!unicode.IsUpper(letters[i-1]) || i+1 < len(letters) && unicode.IsLower(letters[i+1])) {
			b.WriteByte('-')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}
