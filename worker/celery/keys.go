package celery

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// separator is kombu's between a queue's name and a priority.
const separator = "\x06\x16"

// prioritySteps are kombu's: the lists of a queue, first to last.
var prioritySteps = [...]int{0, 3, 6, 9}

// keys of one broker, behind Celery's global_keyprefix.
type keys struct{ prefix string }

func (k keys) unacked() string      { return k.prefix + "unacked" }
func (k keys) unackedIndex() string { return k.prefix + "unacked_index" }
func (k keys) running() string      { return k.prefix + "weir.running" }
func (k keys) revoked() string      { return k.prefix + "weir.revoked" }

func (k keys) result(id string) string             { return k.prefix + "celery-task-meta-" + id }
func (k keys) once(scope string) string            { return k.prefix + "weir.once." + scope }
func (k keys) periodic(periodicTask string) string { return k.prefix + "weir.periodic." + periodicTask }
func (k keys) dead(queue string) string            { return k.prefix + "weir.dead." + queue }

// binding holds the queues that are bound to an exchange, each as routing key,
// pattern and queue.
func (k keys) binding(exchange string) string { return k.prefix + "_kombu.binding." + exchange }

// list is where a queue keeps the messages of a priority, 0 to 9.
func (k keys) list(queue string, priority int) string {
	step := 0
	for _, s := range prioritySteps {
		if priority >= s {
			step = s
		}
	}
	if step == 0 {
		return k.prefix + queue
	}
	return k.prefix + queue + separator + strconv.Itoa(step)
}

// lists of a queue, first to last.
func (k keys) lists(queue string) []string {
	lists := make([]string, len(prioritySteps))
	for i, step := range prioritySteps {
		lists[i] = k.list(queue, step)
	}
	return lists
}

// Tags of ours in unacked say what a message is and which queue it belongs to,
// so that to count them nobody need read the messages. No queue's name holds a
// space. Celery's tags are UUIDs.
const (
	takenPrefix  = "weir "
	parkedPrefix = "parked "
)

func takenTag(queue string) string  { return takenPrefix + queue + " " }
func parkedTag(queue string) string { return parkedPrefix + queue + " " }

// isOurs says whether a tag is one of ours.
func isOurs(tag string) bool {
	return strings.HasPrefix(tag, takenPrefix) || strings.HasPrefix(tag, parkedPrefix)
}

// channel of Celery's fan-out exchanges.
func (b *Broker) channel(exchange, routingKey string) string {
	channel := b.keys.prefix + "/" + strconv.Itoa(b.options.DB) + "." + exchange
	if routingKey != "" {
		channel += "/" + routingKey
	}
	return channel
}

// CheckQueue says what is wrong with a queue's name.
func CheckQueue(queue string) error {
	switch {
	case len(queue) > 200:
		return fmt.Errorf("the queue's name has %d bytes, at most 200 are allowed", len(queue))
	case strings.ContainsFunc(queue, func(r rune) bool { return r < ' ' || r == '*' || r == ',' || r == ' ' }):
		return fmt.Errorf("the queue's name %q holds a control character, a space, a comma or an asterisk", queue)
	}
	return checkList(queue)
}

// checkList is for queues of others too, whose names Celery lets be anything.
func checkList(queue string) error {
	switch {
	case queue == "":
		return errors.New("a queue has no name")
	case queue == "unacked", queue == "unacked_index", queue == "unacked_mutex",
		strings.HasPrefix(queue, "weir."), strings.HasPrefix(queue, "_kombu."), strings.HasPrefix(queue, "celery-task-meta-"):
		return fmt.Errorf("the queue's name %q is a key of Celery's own or of Weir's: choose another", queue)
	}
	return nil
}
