// Command kubectl-weir is a kubectl plugin, kubectl weir: who is limited, by what
// and until when, and what periodic tasks do.
//
// Limits are asked of the operator's usage API, through a port-forward to the
// operator, with the kubeconfig's own token or client certificate. The rest are
// Kubernetes' objects.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

// version is set when building: -ldflags "-X main.version=v1.2.3".
var version = "dev"

func main() {
	klog.SetLogger(logr.Discard()) // what client-go says of connections that end is no one's concern here
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	p := &plugin{out: os.Stdout, errOut: os.Stderr, now: time.Now, open: openCluster}
	if err := p.command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "kubectl weir:", advise(err))
		os.Exit(1)
	}
}

// plugin is one run of the command.
type plugin struct {
	out, errOut io.Writer
	now         func() time.Time
	// open finds the cluster that the flags name.
	open func(*flags) (*cluster, error)

	flags flags
}

// flags that every command has.
type flags struct {
	kubeconfig        string
	overrides         clientcmd.ConfigOverrides
	operatorNamespace string
	output            string
}

// command is the root of all.
func (p *plugin) command() *cobra.Command {
	root := &cobra.Command{
		Use: "kubectl-weir", Short: "See and change what Weir limits and runs",
		Annotations:  map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl weir"},
		SilenceUsage: true, SilenceErrors: true, Version: version, Args: cobra.NoArgs,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			switch p.flags.output {
			case "", "json", "yaml":
				return nil
			}
			return fmt.Errorf("-o is %q: want json or yaml", p.flags.output)
		},
	}
	root.SetOut(p.out)
	root.SetErr(p.errOut)
	all := root.PersistentFlags()
	all.StringVar(&p.flags.kubeconfig, "kubeconfig", "", "path of the kubeconfig file; else KUBECONFIG, or ~/.kube/config")
	// kubectl's own names, but for impersonation: --as names a caller here.
	names := clientcmd.RecommendedConfigOverrideFlags("")
	names.AuthOverrideFlags.Impersonate, names.AuthOverrideFlags.ImpersonateUID = clientcmd.FlagInfo{}, clientcmd.FlagInfo{}
	names.AuthOverrideFlags.ImpersonateGroups = clientcmd.FlagInfo{}
	clientcmd.BindOverrideFlags(&p.flags.overrides, all, names)
	all.StringVar(&p.flags.operatorNamespace, "operator-namespace", "weir-system", "namespace of the operator")
	all.StringVarP(&p.flags.output, "output", "o", "", "json or yaml; else for people")
	if err := root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"json", "yaml"}, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag is there
	}
	root.AddCommand(
		p.statusCommand(), p.topCommand(), p.explainCommand(), p.checkCommand(), p.resetCommand(), p.grantCommand(),
		p.tasksCommand(), p.runCommand(), p.logsCommand(), p.deadCommand(), p.dashboardCommand(),
	)
	return root
}

// with runs a command in the cluster that the flags name.
func (p *plugin) with(do func(ctx context.Context, c *cluster, args []string) error) func(*cobra.Command, []string) error {
	return func(command *cobra.Command, args []string) error {
		c, err := p.open(&p.flags)
		if err != nil {
			return err
		}
		return do(command.Context(), c, args)
	}
}
