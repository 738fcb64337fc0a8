package config

type reader struct {
	file           string
	noFiles        bool
	errs, warnings []Problem
}

func newReader(name string) *reader { return &reader{file: name} }

func (r *reader) read(data []byte) *Config { panic("the reader is not written yet") }

func reason(err error) string { return err.Error() }
