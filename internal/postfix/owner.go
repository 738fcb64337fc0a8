package postfix

import (
	"context"
	"fmt"
	"os/user"
	"strconv"

	"github.com/etrnd/etrnd/internal/foreign"
)

// Owner is the user id that Postfix's daemons have when they connect to a
// socket: that of mail_owner.
func (p *Instance) Owner(ctx context.Context) (uid int, err error) {
	v, err := p.Settings(ctx, "mail_owner")
	if err != nil {
		return 0, err
	}
	u, err := user.Lookup(v["mail_owner"])
	if err != nil {
		return 0, fmt.Errorf("mail_owner = %s: %w", foreign.Quote(v["mail_owner"]), err)
	}
	return strconv.Atoi(u.Uid)
}
