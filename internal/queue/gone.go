package queue

// Gone are the patterns that a later set lacks. Recipients of one may still be
// covered there by a wider one.
func (s *Set) Gone(next *Set) (list []Pattern) {
	have := map[Pattern]bool{}
	for _, q := range next.queues {
		for _, p := range q.Domains {
			have[p] = true
		}
	}
	for _, q := range s.queues {
		for _, p := range q.Domains {
			if !have[p] {
				list = append(list, p)
			}
		}
	}
	return list
}
