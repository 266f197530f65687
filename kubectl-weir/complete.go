package main

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// names completes a command's first argument with what a cluster has.
func (p *plugin) names(of func(context.Context, *cluster) ([]string, error)) cobra.CompletionFunc {
	return func(command *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		c, err := p.open(&p.flags)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		found, err := of(command.Context(), c)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		return slices.DeleteFunc(found, func(name string) bool { return !strings.HasPrefix(name, begun) }), cobra.ShellCompDirectiveNoFileComp
	}
}

func services(ctx context.Context, c *cluster) (names []string, err error) {
	found := &v1alpha1.RateLimitPolicyList{}
	err = c.client.List(ctx, found, client.InNamespace(c.namespace))
	for i := range found.Items {
		names = append(names, found.Items[i].ServiceName())
	}
	return names, err
}

func tasks(ctx context.Context, c *cluster) (names []string, err error) {
	found := &v1alpha1.PeriodicTaskList{}
	err = c.client.List(ctx, found, client.InNamespace(c.namespace))
	for i := range found.Items {
		names = append(names, found.Items[i].Name)
	}
	return names, err
}

func pods(ctx context.Context, c *cluster) (names []string, err error) {
	found := &corev1.PodList{}
	err = c.client.List(ctx, found, client.InNamespace(c.namespace))
	for i := range found.Items {
		names = append(names, found.Items[i].Name)
	}
	return names, err
}
