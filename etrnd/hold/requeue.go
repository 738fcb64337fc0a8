package hold

import (
	"time"

	"github.com/etrnd/etrnd/internal/queue"
)

// An administrator may have the MTA take messages in anew (Postfix: postsuper -r):
// each is moved to maildrop, is copied from there within a minute, and has another
// id from then on. No milter tells of it. A delivery that was under way goes on, and
// to whom that has delivered the copy is not addressed. What was released and is on
// that way has not gone, and goes under its new id if the queue is open.

// requeueWindow is how long a queue stays open for a message that was seen on that
// way, from the last time that it was: its copy is there before it has left.
const requeueWindow = time.Minute

// keepOpenLocked keeps queues open for a message that is on that way and that
// somebody has asked for. What goes because its queue is open has no need of that.
func (m *Manager) keepOpenLocked(msg *message, now time.Time) {
	if !msg.wanted() || !msg.attempt.asked {
		return
	}
	for i := range msg.parts() {
		if d := msg.parts()[i].domain; msg.attempt.want.has(d.queue) {
			m.windowLocked(d.queue.name).ask(queue.Selection{Queue: d.queue.name, Domain: d.name}, now.Add(requeueWindow), now)
		}
	}
}
