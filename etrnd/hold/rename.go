package hold

import "github.com/etrnd/etrnd/internal/queue"

// renameLocked gives queues that are in the next set under another name their
// new one, with all that is known of them: a window that a site has opened, and
// what is under way, are not cut off by an edit of the configuration.
func (m *Manager) renameLocked(next *queue.Set) {
	was, is := byExactName(m.set), byExactName(next)
	var owner map[queue.Pattern]string // of the next set; made when it is needed
	renamed, taken := map[string]string{}, map[string]bool{}
	for name, old := range was {
		if _, stays := is[name]; stays {
			continue
		}
		if owner == nil {
			owner = owners(next)
		}
		to := heir(old, owner)
		if _, known := was[to]; to == "" || known || taken[to] {
			continue // it goes, or into a queue that there was already
		}
		renamed[name], taken[to] = to, true
	}
	for from, to := range renamed {
		q := m.index.queues[from]
		if other := m.index.queues[to]; q == nil || other != nil && !other.idle() {
			// Nothing is known of it; or it is back under a name that it had
			// before, and the next listing sorts its mail in there.
			continue
		}
		delete(m.index.queues, from)
		q.name = to
		m.index.queues[to] = q
		if w := q.window; w != nil {
			for i := range w.asked {
				w.asked[i].sel.Queue = to
			}
			for _, pin := range w.pins {
				pin.Queue = to
			}
		}
	}
}

// idle reports whether nothing depends on what is known of a queue.
func (q *queueIndex) idle() bool {
	return len(q.messages) == 0 && q.flow.inHand == 0 && len(q.flow.limits) == 0 && q.window == nil && q.followers == 0
}

func byExactName(set *queue.Set) map[string]queue.Queue {
	names := map[string]queue.Queue{}
	for _, q := range set.Queues() {
		names[q.Name] = q
	}
	return names
}

func owners(set *queue.Set) map[queue.Pattern]string {
	owner := map[queue.Pattern]string{}
	for _, q := range set.Queues() {
		for _, p := range q.Domains {
			owner[p] = q.Name
		}
	}
	return owner
}

// heir is the one queue that has every pattern of an old one, or empty.
func heir(old queue.Queue, owner map[queue.Pattern]string) (name string) {
	for i, p := range old.Domains {
		switch q := owner[p]; {
		case q == "" || i > 0 && q != name:
			return ""
		default:
			name = q
		}
	}
	return name
}
