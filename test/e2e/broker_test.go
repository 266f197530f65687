package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"os/exec"
	"regexp"
	"slices"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/worker/celery"
)

// reachBroker connects to the trial Redis as a user at a desk does: through
// `kubectl port-forward`. The connection ends with the test, or with Redis' pod.
func reachBroker() *celery.Broker {
	GinkgoHelper()
	forwarding, stop := context.WithCancel(ctx)
	command := exec.CommandContext(forwarding, kubectl, "-n", systemNamespace, "port-forward", "statefulset/weir-redis", ":6379", "--address=127.0.0.1")
	stdout, err := command.StdoutPipe()
	Expect(err).NotTo(HaveOccurred())
	Expect(command.Start()).To(Succeed())
	ended := make(chan struct{})
	address := make(chan string, 1)
	go func() {
		defer close(ended)
		lines := bufio.NewScanner(stdout)
		for lines.Scan() { // to the end, so that kubectl never waits for a reader
			if found := regexp.MustCompile(`127\.0\.0\.1:\d+`).FindString(lines.Text()); found != "" {
				select {
				case address <- found:
				default:
				}
			}
		}
		_ = command.Wait()
	}()
	DeferCleanup(func() {
		stop()
		<-ended
	})
	var at string
	Eventually(address).Should(Receive(&at), "kubectl port-forward says where it listens")
	broker, err := celery.Open("redis://"+at+"/0", celery.Options{})
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { _ = broker.Close() })
	Expect(broker.Ping(ctx)).To(Succeed())
	return broker
}

// enqueue puts calls of a task into a queue, and returns their ids.
func enqueue(broker *celery.Broker, queue, task string, n int, kwargs map[string]any) []string {
	GinkgoHelper()
	calls := make([]celery.Signature, n)
	for i := range calls {
		calls[i] = celery.Signature{Task: task, Queue: queue, Kwargs: kwargs}
	}
	Expect(broker.Enqueue(ctx, calls...)).To(Succeed())
	ids := make([]string, n)
	for i := range calls {
		ids[i] = calls[i].ID
	}
	return ids
}

// statesOf counts the results of some calls by their state; a call without a
// result counts as "none".
func statesOf(broker *celery.Broker, ids []string) map[string]int {
	GinkgoHelper()
	states := map[string]int{}
	for chunk := range slices.Chunk(ids, 500) {
		keys := make([]string, len(chunk))
		for i, id := range chunk {
			keys[i] = "celery-task-meta-" + id
		}
		values, err := broker.Client().MGet(ctx, keys...).Result()
		Expect(err).NotTo(HaveOccurred())
		for _, value := range values {
			result := struct{ Status string }{"none"}
			if text, is := value.(string); is {
				Expect(json.Unmarshal([]byte(text), &result)).To(Succeed(), text)
			}
			states[result.Status]++
		}
	}
	return states
}

// resultOf reads the value of a call that succeeded.
func resultOf(broker *celery.Broker, id string, into any) celery.Result {
	GinkgoHelper()
	result, err := broker.ReadResult(ctx, id)
	Expect(err).NotTo(HaveOccurred())
	Expect(result.State).To(Equal(celery.Success), result.Error)
	Expect(json.Unmarshal(result.Value, into)).To(Succeed(), string(result.Value))
	return result
}

// messagesOf are the messages that wait in a queue, and all that are taken and
// not acknowledged.
func messagesOf(broker *celery.Broker, queue string) (waiting, unacked int64) {
	GinkgoHelper()
	depths, err := broker.Depths(ctx, []string{queue})
	Expect(err).NotTo(HaveOccurred())
	unacked, err = broker.Client().HLen(ctx, "unacked").Result()
	Expect(err).NotTo(HaveOccurred())
	return depths[0].Waiting, unacked
}

// keysLike lists the keys of a pattern.
func keysLike(broker *celery.Broker, pattern string) []string {
	GinkgoHelper()
	var keys []string
	each := broker.Client().Scan(ctx, 0, pattern, 1000).Iterator()
	for each.Next(ctx) {
		keys = append(keys, each.Val())
	}
	Expect(each.Err()).NotTo(HaveOccurred())
	slices.Sort(keys)
	return slices.Compact(keys)
}

// pipelined runs many commands in one exchange.
func pipelined(broker *celery.Broker, commands func(redis.Pipeliner)) {
	GinkgoHelper()
	_, err := broker.Client().Pipelined(ctx, func(pipe redis.Pipeliner) error {
		commands(pipe)
		return nil
	})
	if !errors.Is(err, redis.Nil) {
		Expect(err).NotTo(HaveOccurred())
	}
}
