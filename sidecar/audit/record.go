// Package audit records what a sidecar admitted, so that somebody who was not
// there can judge from the records of all sidecars whether a window was over:
// see test/audit. It is off unless a file is named.
//
// A file has a line for each admission and limit, and lines that say what is
// missing; see Record and Log.
package audit

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math"
	"strconv"
	"strings"
)

// Source says who admitted.
type Source byte

// The sources.
const (
	Redis Source = 'r' // the script, at this request
	Lease Source = 'l' // the sidecar, from a lease that the script granted
	Share Source = 's' // the sidecar, from its share while Redis did not decide
)

// Record is one admission by one limit. Times are in microseconds of the clock
// of the Redis server that has the quota's log.
type Record struct {
	Source Source
	// Granted is when the script counted what was admitted: at the request, or
	// with its lease. 0 for a Share.
	Granted int64
	// Earliest and Latest bound when it was admitted. They are equal where the
	// script did that; Anytime where a sidecar has not heard of Redis's clock.
	Earliest, Latest int64
	Cost             int64
	// Limit in units and its window in milliseconds, as they held for the admission.
	Limit, WindowMillis int64
	// Sharers of the limit, for a Share.
	Sharers int64
	// Caller is of the service: see CallerOf.
	Caller uint64
	// Service is <namespace>/<service>.
	Service string
}

// Anytime is the Latest of an admission whose time is not known.
const Anytime = 1 << 53

// CallerOf hashes a caller's name: the first 8 bytes of the SHA-256 of
// <service>:<identity>. Who can guess a name can check the guess.
func CallerOf(service, identity string) uint64 {
	hash := sha256.New()
	hash.Write([]byte(service))
	hash.Write([]byte{':'})
	hash.Write([]byte(identity))
	var sum [sha256.Size]byte
	return binary.BigEndian.Uint64(hash.Sum(sum[:0]))
}

// Append writes the record as a line: the source, then in decimal Granted,
// Earliest, how much later Latest is, Cost, Limit, WindowMillis and Sharers, the
// caller in hexadecimal, and the service.
func (r *Record) Append(to []byte) []byte {
	to = append(to, byte(r.Source))
	for _, n := range [...]int64{r.Granted, r.Earliest, r.Latest - r.Earliest, r.Cost, r.Limit, r.WindowMillis, r.Sharers} {
		to = strconv.AppendInt(append(to, ' '), n, 10)
	}
	to = strconv.AppendUint(append(to, ' '), r.Caller, 16)
	to = append(append(to, ' '), r.Service...)
	return append(to, '\n')
}

// errLine says that a line is no Record.
var errLine = errors.New("not a record of an admission")

// Parse reads a line without its end. Service shares the line's memory.
func (r *Record) Parse(line string) error {
	source, rest, _ := strings.Cut(line, " ")
	switch source {
	case string(rune(Redis)), string(rune(Lease)), string(rune(Share)):
	default:
		return errLine
	}
	r.Source = Source(source[0])
	var numbers [7]int64
	for i := range numbers {
		var ok bool
		if numbers[i], rest, ok = number(rest); !ok {
			return errLine
		}
	}
	caller, service, _ := strings.Cut(rest, " ")
	var err error
	if r.Caller, err = strconv.ParseUint(caller, 16, 64); err != nil || service == "" {
		return errLine
	}
	r.Granted, r.Earliest, r.Latest, r.Cost = numbers[0], numbers[1], numbers[1]+numbers[2], numbers[3]
	r.Limit, r.WindowMillis, r.Sharers, r.Service = numbers[4], numbers[5], numbers[6], service
	if r.Latest < r.Earliest || r.Cost < 1 || r.Limit < 1 || r.WindowMillis < 1 {
		return errLine
	}
	return nil
}

// number reads one and the space after it.
func number(text string) (n int64, rest string, ok bool) {
	for i := range len(text) {
		switch digit := text[i]; {
		case digit == ' ' && i > 0:
			return n, text[i+1:], true
		case digit < '0' || digit > '9' || n > (math.MaxInt64-9)/10:
			return 0, "", false
		default:
			n = 10*n + int64(digit-'0')
		}
	}
	return 0, "", false
}
