package main

import (
	"errors"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/tools/clientcmd"
)

// advise adds to an error what to do next, where that is known and not said.
func advise(err error) string {
	lines := strings.Split(strings.TrimSpace(err.Error()), "\n")
	for i := range lines {
		lines[i] = visible(lines[i])
	}
	text := strings.Join(lines, "\n")
	next := ""
	switch {
	case isRefused(err, http.StatusUnauthorized):
		next = "The operator takes the kubeconfig's token or client certificate: kubectl auth whoami says whether the API server does."
	case clientcmd.IsEmptyConfig(err):
		next = "Name a kubeconfig with --kubeconfig, or in KUBECONFIG."
	case apierrors.IsUnauthorized(err):
		next = "Log in to the cluster anew."
	case apierrors.IsForbidden(err) && strings.Contains(text, "pods/portforward"), apierrors.IsForbidden(err) && strings.Contains(text, "mutatingwebhookconfigurations"):
		next = "Somebody has to allow you to reach the operator: get mutatingwebhookconfigurations (weir), and in its namespace list pods and create pods/portforward."
	case apierrors.IsForbidden(err):
		next = "A Role has to allow it: kubectl auth can-i --list shows what you may."
	case meta.IsNoMatchError(err), isMissingKind(err):
		next = "Weir is not in this cluster: kubectl apply -k config/default installs it; --context names another cluster."
	case strings.HasPrefix(text, "finding the operator"):
		next = "--operator-namespace names another namespace; docs/troubleshooting.md helps with an operator that does not run."
	case strings.Contains(text, "x509:"):
		next = "Something else answers for the operator, or it has just changed its authority: try again."
	}
	if next == "" {
		return text
	}
	return text + "\n" + next
}

// isMissingKind says whether the API server knows no such resource at all, rather
// than no such object.
func isMissingKind(err error) bool {
	status, ok := errors.AsType[*apierrors.StatusError](err)
	return ok && apierrors.IsNotFound(err) && (status.ErrStatus.Details == nil || status.ErrStatus.Details.Name == "")
}
