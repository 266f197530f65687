package operator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

const (
	patience = 5 * time.Minute
	// profiled is how long CPU profiles are.
	profiled = 20
)

// bench is one run.
type bench struct {
	options  Options
	progress io.Writer
	api      *controlPlane
	operator *binary
	calls    *calls
	fleet    fleet
	sidecars *sidecars
	report   *Report
}

// Run measures everything. The report may be there also with an error.
func Run(ctx context.Context, o Options, progress io.Writer) (_ *Report, err error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	folder, err := os.MkdirTemp(memoryBacked(), "weir-bench")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	b := &bench{options: o, progress: progress, fleet: plan(o)}
	b.report = &Report{Policies: o.Policies, Pods: o.Pods, Namespaces: len(b.fleet.namespaces), Processors: runtime.NumCPU()}

	store, storeURL, err := startRedis(ctx, folder)
	if err != nil {
		return nil, err
	}
	defer store.Kill()
	if b.api, err = startControlPlane(ctx, o, folder); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.api.stop()) }()
	b.calls = newCalls(b.api.audit)
	if err := b.prepare(ctx, folder, storeURL); err != nil {
		return nil, err
	}
	if err := b.operator.start(); err != nil {
		return nil, err
	}
	defer func() { b.operator.kill() }()
	return b.report, b.run(ctx, folder)
}

// memoryBacked is where sidecars keep their Rulesets in pods too.
func memoryBacked() string {
	const shared = "/dev/shm"
	if info, err := os.Stat(shared); err == nil && info.IsDir() {
		return shared
	}
	return ""
}

// prepare builds the operator and what it is started with.
func (b *bench) prepare(ctx context.Context, folder, storeURL string) error {
	path, err := build(ctx, b.options, folder)
	if err != nil {
		return err
	}
	free, err := ports(ctx, 5)
	if err != nil {
		return err
	}
	b.operator = &binary{
		folder: folder, path: path, kubeconfig: filepath.Join(folder, "kubeconfig"), storeURL: filepath.Join(folder, "store"),
		webhook: free[0], link: free[1], metrics: free[2], health: free[3], prof: free[4],
	}
	if err := os.WriteFile(b.operator.storeURL, []byte(storeURL), 0o600); err != nil {
		return err
	}
	token, err := b.api.typed.CoreV1().ServiceAccounts(systemNamespace).CreateToken(ctx, serviceAccount,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: new(int64(tokenLife))}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if err := kubeconfig(b.operator.kubeconfig, b.api.config.Host, b.api.config.CAData, token.Status.Token); err != nil {
		return err
	}
	return b.api.applyWebhook(ctx, b.options, b.operator.webhookURL())
}

func (b *bench) run(ctx context.Context, folder string) error {
	b.say("waiting for the operator")
	if err := until(ctx, time.Minute, 50*time.Millisecond, "the operator is ready", func() (bool, error) { return b.operator.ready(ctx) }); err != nil {
		return err
	}
	if _, err := b.calls.since(); err != nil {
		return err
	}
	var members []member
	steps := []struct {
		name string
		do   func(context.Context) error
	}{
		{"policies and pods created", func(ctx context.Context) error {
			return b.profiling(ctx, "create", func(ctx context.Context) (err error) {
				if err = b.fleet.createNamespaces(ctx, b.api); err == nil {
					members, err = b.fleet.createPods(ctx, b.api)
				}
				return err
			})
		}},
		{"sidecars connect", func(ctx context.Context) error {
			return b.profiling(ctx, "connect", func(ctx context.Context) error { return b.connect(ctx, folder, members) })
		}},
		{"at rest", b.rest},
		{"edits, few sidecars", func(ctx context.Context) error { return b.editMany(ctx, fewPolicy, few) }},
		{"edits, many sidecars", func(ctx context.Context) error { return b.editMany(ctx, allPolicy, b.fleet.pods[0]) }},
		{"admissions", b.admissions},
	}
	defer func() {
		if b.sidecars != nil {
			b.sidecars.close()
		}
	}()
	for _, step := range steps {
		if err := b.phase(ctx, step.name, step.do); err != nil {
			return err
		}
	}
	return b.restart(ctx)
}

func (b *bench) say(format string, arguments ...any) {
	fmt.Fprintf(b.progress, time.Now().Format("15:04:05 ")+format+"\n", arguments...)
}

// phase notes what the operator takes while something is done.
func (b *bench) phase(ctx context.Context, name string, do func(context.Context) error) error {
	b.say("%s", name)
	if err := b.operator.forgetPeak(); err != nil {
		return err
	}
	before, err := b.operator.cpu()
	if err != nil {
		return err
	}
	if _, err := b.calls.since(); err != nil {
		return err
	}
	began := time.Now()
	if err := do(ctx); err != nil {
		return errors.Join(fmt.Errorf("%s: %w", name, err), b.operator.ended())
	}
	return b.note(name, time.Since(began), before)
}

func (b *bench) note(name string, took time.Duration, cpuBefore float64) error {
	row := PhaseRow{Phase: name, Seconds: took.Seconds()}
	cpu, err := b.operator.cpu()
	if err != nil {
		return err
	}
	row.CPUSeconds = cpu - cpuBefore
	if row.ResidentMiB, row.PeakMiB, err = b.operator.memory(); err != nil {
		return err
	}
	if row.Calls, err = b.calls.since(); err != nil {
		return err
	}
	for _, count := range row.Calls {
		row.CallsPerMinute += float64(count) / took.Minutes()
	}
	row.TokenReviewsPerMinute = float64(row.Calls["create tokenreviews"]) / took.Minutes()
	b.report.Phases = append(b.report.Phases, row)
	b.say("%s: %.1f s, CPU %.2f s, %.0f MiB, at most %.0f, %.0f calls a minute, %.0f TokenReviews",
		name, row.Seconds, row.CPUSeconds, row.ResidentMiB, row.PeakMiB, row.CallsPerMinute, row.TokenReviewsPerMinute)
	return nil
}

func (b *bench) connect(ctx context.Context, folder string, members []member) error {

	bundle, err := b.authority(ctx)
	if err != nil {
		return err
	}
	states := filepath.Join(folder, "sidecars")
	if err := os.Mkdir(states, 0o700); err != nil {
		return err
	}
	b.sidecars, err = connect(ctx, states, members, ruleset.Link{Address: b.operator.linkAddress(), CABundle: string(bundle)})
	if err != nil {
		return err
	}
	if err := b.untilHeld(ctx); err != nil {
		return err
	}
	return until(ctx, patience, 200*time.Millisecond, "every policy is programmed", func() (bool, error) { return b.settled(ctx) })
}

// untilHeld waits until the requests of all sidecars are held.
func (b *bench) untilHeld(ctx context.Context) error {
	return until(ctx, patience, 250*time.Millisecond, "every sidecar is answered", func() (bool, error) {
		held, err := b.operator.held(ctx)
		return held >= b.options.Pods, err
	})
}

// settled says whether all policies are programmed as they are now.
func (b *bench) settled(ctx context.Context) (bool, error) {
	policies := &v1alpha1.RateLimitPolicyList{}
	if err := b.api.client.List(ctx, policies); err != nil {
		return false, err
	}
	for i := range policies.Items {
		pods := policies.Items[i].Status.Pods
		if pods == nil || !programmedFor(&policies.Items[i], policies.Items[i].Generation, int(pods.Selected)) {
			return false, nil
		}
	}
	return len(policies.Items) == b.options.Policies, nil
}

func (b *bench) rest(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(b.options.Rest):
	}
	if err := b.operator.profile(ctx, b.options.Profile, "heap-rest", "heap?gc=1"); err != nil {
		return err
	}
	return b.operator.profile(ctx, b.options.Profile, "goroutines-rest", "goroutine?debug=1")
}

// profiling takes a CPU profile while something is done.
func (b *bench) profiling(ctx context.Context, name string, do func(context.Context) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return b.operator.profile(ctx, b.options.Profile, "cpu-"+name, fmt.Sprintf("profile?seconds=%d", profiled))
	})
	group.Go(func() error { return do(ctx) })
	return group.Wait()
}

func (b *bench) editMany(ctx context.Context, name string, sidecars int) error {
	return b.profiling(ctx, "edits-"+name, func(ctx context.Context) error {
		row, err := b.edits(ctx, name, sidecars)
		b.report.Edits = append(b.report.Edits, row)
		return err
	})
}

func (b *bench) admissions(ctx context.Context) error {
	return b.profiling(ctx, "admissions", func(ctx context.Context) error {
		asked, err := b.admit(ctx)
		if err != nil {
			return err
		}
		injected, plain, err := b.create(ctx)
		b.report.Admissions = append(b.report.Admissions, asked, injected, plain)
		return err
	})
}

// restart kills the operator with everything connected, and starts it again.
func (b *bench) restart(ctx context.Context) error {
	b.say("the operator is killed and started again")
	if err := until(ctx, patience, 200*time.Millisecond, "every policy is programmed", func() (bool, error) { return b.settled(ctx) }); err != nil {
		return err
	}
	seen, err := b.doubt(ctx)
	if err != nil {
		return err
	}
	b.operator.kill()
	if _, err := b.calls.since(); err != nil {
		return err
	}
	began := time.Now()
	if err := b.operator.start(); err != nil {
		return err
	}
	found := &Restart{EditSidecars: b.fleet.pods[0]}
	b.report.Restart = found
	if err := until(ctx, patience, 20*time.Millisecond, "the operator is ready", func() (bool, error) { return b.operator.ready(ctx) }); err != nil {
		return err
	}
	found.Ready = time.Since(began).Seconds()
	err = b.profiling(ctx, "restart", func(ctx context.Context) error {
		group, ctx := errgroup.WithContext(ctx)
		group.Go(func() error {
			enforced, programmed, err := b.edit(ctx, allPolicy, found.EditSidecars)
			found.EditEnforced, found.EditProgrammed = enforced.Seconds(), programmed.Seconds()
			return err
		})
		group.Go(func() error {
			err := b.untilHeld(ctx)
			found.Answered = time.Since(began).Seconds()
			return err
		})
		return group.Wait()
	})
	if err != nil {
		return fmt.Errorf("after the restart: %w", err)
	}
	if err := b.note("restart", time.Since(began), 0); err != nil {
		return err
	}
	if err := b.phase(ctx, "at rest after the restart", b.rest); err != nil {
		return err
	}
	for _, doubt := range seen.stop() {
		if prefix := b.fleet.namespaces[0] + "/" + allPolicy + ":"; len(doubt) < len(prefix) || doubt[:len(prefix)] != prefix {
			found.Doubts = append(found.Doubts, doubt)
		}
	}
	return nil
}
