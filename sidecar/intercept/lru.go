package intercept

import (
	"container/list"
	"iter"
)

// lru is a map of bounded size that forgets what was not used for longest.
type lru[V any] struct {
	most     int
	order    *list.List // of *item[V], the last used first
	elements map[string]*list.Element
}

type item[V any] struct {
	key   string
	value V
}

func newLRU[V any](most int) *lru[V] {
	return &lru[V]{most: most, order: list.New(), elements: map[string]*list.Element{}}
}

// get uses a key.
func (l *lru[V]) get(key string) (value V, ok bool) {
	element, ok := l.elements[key]
	if !ok {
		return value, false
	}
	l.order.MoveToFront(element)
	return element.Value.(*item[V]).value, true
}

// add adds a key that is not there; what is forgotten for it is returned.
func (l *lru[V]) add(key string, value V) (forgotten V, full bool) {
	if len(l.elements) >= l.most {
		last := l.order.Back().Value.(*item[V])
		l.remove(last.key)
		forgotten, full = last.value, true
	}
	l.elements[key] = l.order.PushFront(&item[V]{key, value})
	return forgotten, full
}

func (l *lru[V]) remove(key string) {
	if element, ok := l.elements[key]; ok {
		l.order.Remove(element)
		delete(l.elements, key)
	}
}

// all yields everything without using it; the key yielded may be removed meanwhile.
func (l *lru[V]) all() iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		for key, element := range l.elements {
			if !yield(key, element.Value.(*item[V]).value) {
				return
			}
		}
	}
}
