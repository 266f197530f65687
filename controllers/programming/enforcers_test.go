package programming

import "testing"

func TestCoarse(t *testing.T) {
	t.Parallel()
	changes, last := 0, int64(0)
	for n := int64(1); n <= 10_000; n++ {
		got := Coarse(n)
		switch {
		case got < n || (got-n)*8 >= n || got < last:
			t.Fatalf("%d is rounded to %d after %d, want up, by less than an eighth", n, got, last)
		case n <= 16 && got != n:
			t.Fatalf("%d is rounded to %d", n, got)
		case Coarse(got) != got:
			t.Fatalf("%d is rounded to %d, and that to %d", n, got, Coarse(got))
		}
		if got != last {
			changes++
		}
		last = got
	}
	if changes != 90 {
		t.Errorf("10,000 pods, one after the other, are %d numbers, want 90", changes)
	}
}
