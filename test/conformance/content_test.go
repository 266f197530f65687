package conformance

import (
	"encoding/binary"
	"hash/maphash"
	"io"
	"math/rand/v2"
)

// seed of the sums, which hold within this process.
var seed = maphash.MakeSeed()

// sum reads everything and returns its hash.
func sum(r io.Reader) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	_, _ = io.Copy(&h, r) // what is missing after an error, the sum shows
	return h.Sum64()
}

// random are bytes that look like nothing.
func random(n int, seed uint64) []byte {
	b := make([]byte, n)
	var key [32]byte
	binary.BigEndian.PutUint64(key[:], seed)
	_, _ = rand.NewChaCha8(key).Read(b) // never fails
	return b
}
