package report

// maxCallers of one interval.
const maxCallers = 64

// caller in a sketch. Its name is copied, into memory that serves one caller after
// the other: what a request calls a name lives no longer than the request.
type caller struct {
	name []byte
	// asked units and those limited, since it is in the sketch.
	asked, limited int64
}

// sketch has the callers that asked most: every one that asked for more than a
// 64th of all units is in it.
type sketch struct {
	callers []caller
	// hashes of their names, and weights: what each has asked for, and may have
	// earlier, at most; as much as the one whose place it has.
	hashes  [maxCallers]uint64
	weights [maxCallers]int64
}

// ask has a caller ask for some units, and returns it.
func (s *sketch) ask(hash uint64, name string, units int64) *caller {
	i := s.find(hash, name)
	if i < 0 {
		i = s.place(hash, name)
	}
	s.weights[i] += units
	c := &s.callers[i]
	c.asked += units
	return c
}

func (s *sketch) find(hash uint64, name string) int {
	for i, other := range s.hashes[:len(s.callers)] {
		if other == hash && string(s.callers[i].name) == name {
			return i
		}
	}
	return -1
}

// place a caller: where one is free, or instead of the one with the least weight.
func (s *sketch) place(hash uint64, name string) int {
	at := len(s.callers)
	switch {
	case at == maxCallers:
		at = 0
		for i, weight := range s.weights {
			if weight < s.weights[at] {
				at = i
			}
		}
	case at < cap(s.callers):
		s.callers = s.callers[:at+1] // with the memory of a name, from before a reset
	default:
		s.callers = append(s.callers, caller{})
	}
	s.hashes[at] = hash
	s.callers[at] = caller{name: append(s.callers[at].name[:0], name...)}
	return at
}

// reset empties the sketch, and keeps its memory.
func (s *sketch) reset() { s.callers, s.weights = s.callers[:0], [maxCallers]int64{} }
