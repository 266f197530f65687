package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	dashboardService = "weir-dashboard"
	dashboardPort    = 5555
)

func (p *plugin) dashboardCommand() *cobra.Command {
	local := uint16(dashboardPort)
	command := &cobra.Command{
		Use: "dashboard", Short: "Forward a port of this machine to the page, until Ctrl-C", Args: cobra.NoArgs,
		RunE: p.with(func(ctx context.Context, c *cluster, _ []string) error {
			service := &corev1.Service{}
			err := c.client.Get(ctx, client.ObjectKey{Namespace: c.operatorNamespace, Name: dashboardService}, service)
			if apierrors.IsNotFound(err) {
				return fmt.Errorf("there is no Service %s in namespace %s: the page is not installed, or --operator-namespace is another", dashboardService, c.operatorNamespace)
			}
			if err != nil {
				return err
			}
			pod, err := c.readyPod(ctx, service.Namespace, service.Spec.Selector)
			if err != nil {
				return fmt.Errorf("finding the page: %w", err)
			}
			port, ended, err := c.forward(ctx, pod, local, dashboardPort)
			if err != nil && local != 0 {
				return fmt.Errorf("%w (--port names another port of this machine than %d, 0 any)", err, local)
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(p.out, "http://127.0.0.1:%d shows the page, until Ctrl-C.\n", port)
			select {
			case <-ctx.Done():
				return nil
			case err := <-ended:
				if ctx.Err() != nil {
					return nil
				}
				return fmt.Errorf("the page's pod %s is gone (%w): start kubectl weir dashboard again", pod.Name, err)
			}
		}),
	}
	command.Flags().Uint16Var(&local, "port", local, "port of this machine; 0: any")
	return command
}
