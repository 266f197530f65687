package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-dev/weir/controllers/programming"
	"github.com/weir-dev/weir/controllers/usage"
)

func (p *plugin) statusCommand() *cobra.Command {
	all := false
	command := &cobra.Command{
		Use: "status", Short: "Show policies: state, pods, rates", Args: cobra.NoArgs,
		RunE: p.with(func(ctx context.Context, c *cluster, _ []string) error {
			api, err := c.reach(ctx)
			if err != nil {
				return err
			}
			found, err := api.policies(ctx, c.in(all))
			if err != nil {
				return err
			}
			return p.print(found, func(t *table) { printPolicies(t, found, c.in(all)) })
		}),
	}
	command.Flags().BoolVarP(&all, "all-namespaces", "A", false, "of all namespaces")
	return command
}

// in is the namespace to list; empty: all.
func (c *cluster) in(all bool) string {
	if all {
		return ""
	}
	return c.namespace
}

func printPolicies(t *table, found usage.Policies, namespace string) {
	if len(found.Policies) == 0 {
		t.say("No RateLimitPolicy in %s. docs/quickstart.md has one to begin with.", where(namespace))
		return
	}
	t.row("NAMESPACE", "SERVICE", "POLICY", "LIMIT", "STATE", "PODS", "ADMITTED/S", "LIMITED/S")
	degraded := 0
	for i := range found.Policies {
		policy := &found.Policies[i]
		state := policy.State
		if policy.Mode == "Observe" {
			state += ", observing"
		}
		if policy.Degraded {
			state += ", degraded"
			degraded++
		}
		admitted, limited := "?", "?"
		if policy.Rates != nil {
			admitted, limited = rate(policy.Rates.Admitted), rate(policy.Rates.Limited)
		}
		t.row(policy.Namespace, policy.Service, policy.Policy, limits(policy.Limits), state,
			fmt.Sprintf("%d/%d", policy.Pods.Enforcing, policy.Pods.Selected), admitted, limited)
	}
	if degraded > 0 {
		t.say("\nDegraded: sidecars have no answer from Redis, and onStoreFailure decides. kubectl describe rlpol says which.")
	}
	if found.Missing != "" {
		t.say("\nNo rates: %s", found.Missing)
	}
}

// where is a namespace that was listed, or all.
func where(namespace string) string {
	if namespace == "" {
		return "any namespace"
	}
	return "namespace " + namespace
}

// limits as 100/1m.
func limits(all []usage.Quota) string {
	var texts []string
	for _, limit := range all {
		texts = append(texts, fmt.Sprintf("%d/%s", limit.Requests, programming.Short(limit.Window.Duration)))
	}
	return strings.Join(texts, ", ")
}

func (p *plugin) topCommand() *cobra.Command {
	var all, once bool
	var most int
	command := &cobra.Command{
		Use: "top [SERVICE]", Short: "Show services, or a service's callers, by what they ask; live on a terminal", Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: p.names(services),
		RunE: p.with(func(ctx context.Context, c *cluster, args []string) error {
			if most < 1 || most > 500 {
				return fmt.Errorf("--limit is %d: want 1 to 500", most)
			}
			table := func(api *operator) error { return p.topServices(ctx, api, c.in(all), most) }
			if len(args) == 1 {
				policy, err := c.policyOf(ctx, args[0])
				if err != nil {
					return err
				}
				table = func(api *operator) error { return p.topCallers(ctx, c, api, policy, most) }
			}
			api := &reached{cluster: c}
			show := func() error { return api.ask(ctx, table) }
			if once || p.flags.output != "" || !isTerminal(p.out) {
				return show()
			}
			return p.live(ctx, show)
		}),
	}
	command.Flags().BoolVarP(&all, "all-namespaces", "A", false, "services of all namespaces")
	command.Flags().BoolVar(&once, "once", false, "show it once, on a terminal too")
	command.Flags().IntVar(&most, "limit", 20, "how many to show")
	return command
}

// isTerminal says whether somebody looks at what is written.
func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// live shows it again every two seconds, until ctx ends. Its error is that of the
// first time.
func (p *plugin) live(ctx context.Context, show func() error) error {
	out := p.out
	defer func() { p.out = out }()
	ticker := time.NewTicker(2 * time.Second)
	defer ticker.Stop()
	for first := true; ; first = false {
		var screen strings.Builder
		p.out = &screen
		err := show()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && first:
			return err
		case err != nil: // it may pass
			screen.Reset()
			screen.WriteString(advise(err) + "\n")
		}
		fmt.Fprintf(out, "\x1b[H\x1b[2J%s\n%s. Ctrl-C ends.\n", screen.String(), p.now().Format(time.TimeOnly))
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (p *plugin) topServices(ctx context.Context, api *operator, namespace string, most int) error {
	found, err := api.policies(ctx, namespace)
	if err != nil {
		return err
	}
	slices.SortStableFunc(found.Policies, func(a, b usage.Policy) int {
		x, y := cmp.Or(a.Rates, &usage.Rates{}), cmp.Or(b.Rates, &usage.Rates{})
		return cmp.Or(cmp.Compare(y.Limited, x.Limited), cmp.Compare(y.Admitted, x.Admitted))
	})
	found.Policies = found.Policies[:min(most, len(found.Policies))]
	return p.print(found, func(t *table) { printPolicies(t, found, namespace) })
}

func (p *plugin) topCallers(ctx context.Context, c *cluster, api *operator, policy string, most int) error {
	var found usage.Callers
	if err := api.ask(ctx, http.MethodGet, of(c.namespace, policy, fmt.Sprintf("/callers?limit=%d", most)), nil, &found); err != nil {
		return err
	}
	return p.print(found, func(t *table) {
		if len(found.Callers) == 0 {
			t.say("Nobody has asked for it in the last ten minutes.")
			return
		}
		t.row("CALLER", "ASKED", "LIMITED", "USED", "LEFT", "NOW")
		for i := range found.Callers {
			caller := &found.Callers[i]
			used, left := tightest(&caller.Standing)
			t.row(named(caller.Name), count(caller.Asked), count(caller.Limited), used, left, now(&caller.Standing))
		}
		t.say("\nAsked and limited are units of the last ten minutes.")
	})
}

// tightest is what is used and left of the limit with the least left.
func tightest(s *usage.Standing) (used, left string) {
	if len(s.Limits) == 0 {
		return "-", "-"
	}
	least := slices.MinFunc(s.Limits, func(a, b usage.Limit) int { return cmp.Compare(a.Remaining, b.Remaining) })
	return fmt.Sprintf("%d/%d", least.Used, least.Requests), count(least.Remaining)
}

// now says whether a request would pass.
func now(s *usage.Standing) string {
	switch {
	case s.Unlimited:
		return "unlimited"
	case s.Admitted:
		return "admitted"
	case s.RetryAfterSeconds < 0:
		return "never"
	}
	return "in " + span(s.RetryAfterSeconds)
}

// caller adds the flag that names one.
func caller(command *cobra.Command, to *string) {
	command.Flags().StringVar(to, "as", "", "caller, as the policy's sources name it; empty: all unnamed callers together")
}

// asked says whether a caller was named, if only by nothing.
func asked(command *cobra.Command) error {
	if !command.Flags().Changed("as") {
		return errors.New(`--as is required: the caller as the policy's sources name it, or "" for all unnamed callers together`)
	}
	return nil
}

func (p *plugin) checkCommand() *cobra.Command {
	return p.standingCommand("check", "Say what would become of a caller's request now; takes nothing", "",
		func(ctx context.Context, api *operator, path func(string) string, as string, found *usage.Usage) error {
			return api.ask(ctx, http.MethodGet, path("/usage"+identity(as)), nil, found)
		})
}

func (p *plugin) resetCommand() *cobra.Command {
	return p.standingCommand("reset", "Empty a caller's windows: it has its whole quota again", "Emptied. ",
		func(ctx context.Context, api *operator, path func(string) string, as string, found *usage.Usage) error {
			return api.ask(ctx, http.MethodPost, path("/resets"), usage.Caller{Identity: &as}, found)
		})
}

// standingCommand asks something of the operator about a caller of a service, and
// shows how it is with the caller then. done is said before that.
func (p *plugin) standingCommand(name, short, done string,
	ask func(ctx context.Context, api *operator, path func(string) string, as string, found *usage.Usage) error,
) *cobra.Command {
	var as string
	command := &cobra.Command{Use: name + " SERVICE --as USER", Short: short, Args: cobra.ExactArgs(1), ValidArgsFunction: p.names(services)}
	caller(command, &as)
	command.RunE = p.about(command, func(ctx context.Context, c *cluster, api *operator, policy string) error {
		var found usage.Usage
		path := func(below string) string { return of(c.namespace, policy, below) }
		if err := ask(ctx, api, path, as, &found); err != nil {
			return err
		}
		return p.print(found, func(t *table) { p.printUsage(t, &found, done) })
	})
	return command
}

// about runs a command about one caller of a service.
func (p *plugin) about(command *cobra.Command, do func(context.Context, *cluster, *operator, string) error) func(*cobra.Command, []string) error {
	return func(_ *cobra.Command, args []string) error {
		if err := asked(command); err != nil {
			return err
		}
		return p.with(func(ctx context.Context, c *cluster, args []string) error {
			policy, err := c.policyOf(ctx, args[0])
			if err != nil {
				return err
			}
			api, err := c.reach(ctx)
			if err != nil {
				return err
			}
			return do(ctx, c, api, policy)
		})(command, args)
	}
}

func (p *plugin) printUsage(t *table, found *usage.Usage, done string) {
	verdict := "would be admitted now"
	switch {
	case found.Unlimited:
		verdict = "is not limited"
	case !found.Admitted && found.RetryAfterSeconds < 0:
		verdict = "would never be admitted"
	case !found.Admitted:
		verdict = "would be admitted in " + span(found.RetryAfterSeconds)
	}
	t.say("%s%s of service %s: a request %s.", done, shown(found.Identity), found.Service, verdict)
	if len(found.Limits) > 0 {
		t.row("LIMIT", "USED", "LEFT", "MORE")
		for _, limit := range found.Limits {
			more := "-"
			if limit.FreesAfterSeconds > 0 {
				more = "in " + span(limit.FreesAfterSeconds)
			}
			t.row(fmt.Sprintf("%d/%s", limit.Requests, programming.Short(limit.Window.Duration)), count(limit.Used), count(limit.Remaining), more)
		}
	}
	if found.Grant != nil {
		t.say("Of that %d are granted until %s%s.", found.Grant.Requests, found.Grant.Until.UTC().Format(time.RFC3339), by(found.Grant))
	}
}

func by(grant *usage.Grant) string {
	text := ""
	if grant.By != "" {
		text += " by " + shown(grant.By)
	}
	if grant.Reason != "" {
		text += " (" + shown(grant.Reason) + ")"
	}
	return text
}

func (p *plugin) grantCommand() *cobra.Command {
	var as, reason string
	var requests int32
	var long time.Duration
	var end bool
	command := &cobra.Command{
		Use: "grant SERVICE [--as USER --requests N --for TIME | --as USER --end]", Args: cobra.ExactArgs(1),
		ValidArgsFunction: p.names(services),
		Short:             "Grant a caller more for a time, or end that; without --as, list grants",
		Example: `  kubectl weir grant api --as user_42 --requests 50 --for 2h --reason "ticket 1234"
  kubectl weir grant api --as user_42 --end
  kubectl weir grant api`,
	}
	caller(command, &as)
	command.Flags().Int32Var(&requests, "requests", 0, "so many more in each window")
	command.Flags().DurationVar(&long, "for", 0, "how long, as 2h")
	command.Flags().StringVar(&reason, "reason", "", "for the policy's event, and whoever looks")
	command.Flags().BoolVar(&end, "end", false, "end the caller's grant")
	command.MarkFlagsMutuallyExclusive("end", "requests")
	command.MarkFlagsMutuallyExclusive("end", "for")
	command.RunE = func(c *cobra.Command, args []string) error {
		switch named := c.Flags().Changed("as"); {
		case !named && (end || requests != 0 || long != 0):
			return asked(c)
		case named && !end && (requests == 0 || long == 0):
			return errors.New("a grant wants --requests and --for; --end ends one")
		case !named:
			return p.with(func(ctx context.Context, c *cluster, args []string) error { return p.grants(ctx, c, args[0]) })(c, args)
		case end:
			return p.about(c, func(ctx context.Context, c *cluster, api *operator, policy string) error {
				var left usage.Grants
				if err := api.ask(ctx, http.MethodDelete, of(c.namespace, policy, "/grants"+identity(as)), nil, &left); err != nil {
					return err
				}
				return p.print(left, func(t *table) { t.say("Ended the grant of %s.", shown(as)) })
			})(c, args)
		}
		return p.about(c, func(ctx context.Context, c *cluster, api *operator, policy string) error {
			var granted usage.Grant
			wanted := usage.GrantRequest{Identity: &as, Requests: requests, For: &metav1.Duration{Duration: long}, Reason: reason}
			if err := api.ask(ctx, http.MethodPost, of(c.namespace, policy, "/grants"), wanted, &granted); err != nil {
				return err
			}
			return p.print(granted, func(t *table) {
				t.say("Granted %s %d requests more in each window until %s.", shown(granted.Identity), granted.Requests, granted.Until.UTC().Format(time.RFC3339))
			})
		})(c, args)
	}
	return command
}

// grants lists those in force.
func (p *plugin) grants(ctx context.Context, c *cluster, service string) error {
	policy, err := c.policyOf(ctx, service)
	if err != nil {
		return err
	}
	api, err := c.reach(ctx)
	if err != nil {
		return err
	}
	var found usage.Grants
	if err := api.ask(ctx, http.MethodGet, of(c.namespace, policy, "/grants"), nil, &found); err != nil {
		return err
	}
	return p.print(found, func(t *table) {
		if len(found.Grants) == 0 {
			t.say("No grants. kubectl weir grant %s --as USER --requests N --for TIME makes one.", service)
			return
		}
		t.row("CALLER", "MORE", "ENDS", "BY", "REASON")
		for i := range found.Grants {
			grant := &found.Grants[i]
			t.row(shown(grant.Identity), count(int64(grant.Requests)), p.ago(&grant.Until), orDash(grant.By), orDash(grant.Reason))
		}
	})
}
