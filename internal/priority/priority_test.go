package priority

import "testing"

func TestStated(t *testing.T) {
	type field struct{ name, value string }
	for what, c := range map[string]struct {
		parameter string
		fields    []field
		want      int
		ok, exact bool
	}{
		"nothing":          {},
		"of no use":        {fields: []field{{"Subject", "urgent"}, {"Priority", "whenever"}, {"X-Priority", "0"}, {"X-Priority", "high"}, {"Importance", ""}}},
		"out of range":     {parameter: "10", fields: []field{{"MT-Priority", "-10"}, {"X-Priority", "6"}}},
		"urgent":           {fields: []field{{"Priority", " urgent"}}, want: 4, ok: true},
		"normal is stated": {fields: []field{{"X-Priority", "3 (Normal)"}}, ok: true},
		"X-Priority 2":     {fields: []field{{"X-PRIORITY", "2(High)"}}, want: 2, ok: true},
		"X-Priority 5":     {fields: []field{{"x-priority", "\r\n 5"}}, want: -4, ok: true}, // folded
		"a number":         {fields: []field{{"MT-Priority", "-3"}}, want: -3, ok: true, exact: true},
		"MAIL's":           {parameter: "4", want: 4, ok: true, exact: true},
		// What binds more wins, in whatever order they come.
		"registered":       {fields: []field{{"X-Priority", "1"}, {"Importance", "low"}}, want: -4, ok: true},
		"registered first": {fields: []field{{"Importance", "low"}, {"X-Priority", "1"}}, want: -4, ok: true},
		"MSMail is last":   {fields: []field{{"X-MSMail-Priority", "Low"}, {"X-Priority", "1"}}, want: 4, ok: true},
		"MAIL's is first":  {parameter: "-9", fields: []field{{"MT-Priority", "9"}, {"Priority", "urgent"}}, want: -9, ok: true, exact: true},
		// The first of two that bind alike, so that nothing appended changes it.
		"two": {fields: []field{{"Importance", "low"}, {"Importance", "high"}}, want: -4, ok: true},
	} {
		var s Stated
		if c.parameter != "" {
			s.Parameter(c.parameter)
		}
		for _, f := range c.fields {
			s.Field(f.name, f.value)
		}
		if s.Value() != c.want || s.OK() != c.ok || s.Exact() != c.exact {
			t.Errorf("%s: %d, %v, %v; want %d, %v, %v", what, s.Value(), s.OK(), s.Exact(), c.want, c.ok, c.exact)
		}
	}
}
