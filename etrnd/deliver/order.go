package deliver

// order is a heap of messages that wait to be sent: by priority, then those
// whose recipients are still to be asked for, then the smaller, then the older.
type order []*message

func (o order) Len() int      { return len(o) }
func (o order) Swap(i, j int) { o[i], o[j] = o[j], o[i] }
func (o order) Less(i, j int) bool {
	a, b := o[i], o[j]
	switch {
	case a.priority != b.priority:
		return a.priority > b.priority
	case a.cost() != b.cost():
		return a.cost() < b.cost()
	}
	return a.serial < b.serial
}
func (o *order) Push(x any) { *o = append(*o, x.(*message)) }
func (o *order) Pop() any {
	old := *o
	m := old[len(old)-1]
	old[len(old)-1] = nil
	*o = old[:len(old)-1]
	return m
}

// cost is how much the message would put on the line now. To ask whether a long
// one may come costs little, and the answer is a round trip away: the sooner
// the better.
func (m *message) cost() int64 {
	if m.long() && m.asks && !m.ready {
		return 0
	}
	return m.size
}

func (m *message) long() bool { return m.rest != nil }
