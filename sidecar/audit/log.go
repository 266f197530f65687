package audit

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// maxWaiting bounds what waits to be written, in bytes. Of more, records are lost.
	maxWaiting = 4 << 20
	// maxHold is how long Flush waits for the file.
	maxHold = 20 * time.Millisecond
	// retryInterval is the time between two attempts at a file that takes nothing.
	retryInterval = 100 * time.Millisecond
)

// Lines of a file beside its records.
const (
	// begun opens a process's part of the file.
	begun = "begun"
	// ended closes it: a part without was killed.
	ended = "ended"
	// late: admissions were answered before their records were in the file, up
	// to here. Had the process been killed meanwhile, they were missing.
	late = "late"
	// lost N: so many records did not fit and are nowhere.
	lost = "lost "
)

// Log writes records to a file. They are in it, as far as the kernel is
// concerned, when Flush returns, so that a process that is killed has recorded
// what it answered. A file that takes nothing, slow or full, holds nobody for
// longer than maxHold, and then nobody until it has caught up: the file says
// both, and how many records were lost for lack of room.
type Log struct {
	file io.WriteCloser
	log  *slog.Logger
	kick chan struct{}
	done chan struct{} // closed when the writer has ended

	mu sync.Mutex
	// waiting is to be written, and written is closed when it was; nil: nothing waits.
	waiting []byte
	written chan struct{}
	// writing is closed when what is being written was.
	writing chan struct{}
	spare   []byte
	lost    int64
	behind  bool // a Flush was not waited for
	failing bool // the last write failed
	closed  bool
}

// Open appends to a file, which it makes if need be.
func Open(name string, log *slog.Logger) (*Log, error) {
	file, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the file of admissions: %w", err)
	}
	if info, err := file.Stat(); err == nil && info.Size() > 0 { // the last line may be torn
		if _, err := file.Write([]byte{'\n'}); err != nil {
			return nil, errors.Join(fmt.Errorf("writing the file of admissions: %w", err), file.Close())
		}
	}
	return start(file, log), nil
}

func start(file io.WriteCloser, log *slog.Logger) *Log {
	l := &Log{file: file, log: log, kick: make(chan struct{}, 1), done: make(chan struct{})}
	l.line(begun)
	go l.run()
	return l
}

// Append has a record written soon. It does not wait.
func (l *Log) Append(r *Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || len(l.waiting) > maxWaiting {
		l.lost++
		return
	}
	l.waiting = r.Append(l.waiting)
	l.wake()
}

// line appends a line that is no record.
func (l *Log) line(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.say(text)
}

func (l *Log) say(text string) {
	l.waiting = append(append(l.waiting, text...), '\n')
	l.wake()
}

// wake has the writer write what waits. The caller holds mu.
func (l *Log) wake() {
	if l.written == nil {
		l.written = make(chan struct{})
	}
	select {
	case l.kick <- struct{}{}:
	default: // it will look
	}
}

// Flush waits until all that was appended is in the file; see Log for how long.
func (l *Log) Flush() {
	l.mu.Lock()
	written, behind := l.written, l.behind
	if written == nil {
		written = l.writing
	}
	l.mu.Unlock()
	if written == nil || behind {
		return
	}
	timer := time.NewTimer(maxHold)
	defer timer.Stop()
	select {
	case <-written:
	case <-timer.C:
		l.mu.Lock()
		l.behind = true
		l.mu.Unlock()
	}
}

// Close writes what waits, for a second at most, and closes the file.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	l.account()
	l.say(ended)
	close(l.kick)
	l.mu.Unlock()
	select {
	case <-l.done:
	case <-time.After(time.Second):
	}
	return l.file.Close()
}

// run writes, batch after batch.
func (l *Log) run() {
	defer close(l.done)
	for range l.kick {
		for l.writeWaiting() {
		}
	}
}

// writeWaiting returns false when nothing waits.
func (l *Log) writeWaiting() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting) == 0 {
		return false
	}
	batch := l.waiting
	l.waiting, l.spare = l.spare[:0], nil
	l.writing, l.written = l.written, nil
	l.mu.Unlock()
	l.write(batch)
	l.mu.Lock()
	close(l.writing)
	l.spare, l.writing = batch[:0], nil
	if !l.closed {
		l.account()
	}
	return true
}

// account says what became of records meanwhile. The caller holds mu.
func (l *Log) account() {
	if l.behind && len(l.waiting) == 0 || l.closed && l.behind {
		l.behind = false
		l.say(late)
	}
	if l.lost > 0 {
		l.say(lost + strconv.FormatInt(l.lost, 10))
		l.lost = 0
	}
}

// write writes all of it, however long that takes: a file that is full may have
// room again.
func (l *Log) write(batch []byte) {
	for {
		n, err := l.file.Write(batch)
		batch = batch[n:]
		if len(batch) == 0 {
			l.failing = false
			return
		}
		if !l.failing {
			l.failing = true
			l.log.Error("The file of admissions takes no more: records will be lost.", "error", err)
		}
		l.mu.Lock()
		l.behind = true
		closed := l.closed
		l.mu.Unlock()
		if closed {
			return
		}
		time.Sleep(retryInterval)
	}
}

// Note is what a line that is no record says.
type Note struct {
	Begun, Ended, Late bool
	Lost               int64
}

// ParseNote reads a line that is no record.
func ParseNote(line string) (n Note, ok bool) {
	switch {
	case line == begun:
		n.Begun = true
	case line == ended:
		n.Ended = true
	case line == late:
		n.Late = true
	case strings.HasPrefix(line, lost):
		count, rest, _ := number(line[len(lost):] + " ")
		n.Lost = count
		return n, rest == "" && count > 0
	default:
		return n, false
	}
	return n, true
}
