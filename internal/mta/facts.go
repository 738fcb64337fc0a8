package mta

import (
	"context"
	"errors"
)

// facts is what is remembered of the configuration until Refresh.
type facts struct{}

func (p *Postfix) IsLocal(ctx context.Context, domain string) (bool, error) {
	return false, errors.ErrUnsupported
}

func (p *Postfix) RecipientDelimiter(ctx context.Context) (string, error) {
	return "", errors.ErrUnsupported
}

func (p *Postfix) Refresh() {}
