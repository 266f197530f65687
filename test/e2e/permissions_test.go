package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// operatorUser is whose permissions are held to what it used.
const operatorUser = "system:serviceaccount:" + systemNamespace + ":weir-operator"

// unused are permissions that a run of this suite need not use, and why the
// operator has them.
var unused = map[string]string{
	"update weir.dev periodictasks/finalizers":                           "the admission plugin OwnerReferencesPermissionEnforcement, where it is on, asks for it",
	"create events in weir-system":                                       "client-go's leader election falls back to it",
	"patch events in weir-system":                                        "the same",
	"list configmaps extension-apiserver-authentication in kube-system":  "the built-in Role extension-apiserver-authentication-reader has it",
	"watch configmaps extension-apiserver-authentication in kube-system": "the same",
}

// auditEvent is a line of the API server's audit log, as far as it matters here.
type auditEvent struct {
	Verb string `json:"verb"`
	User struct {
		Username string `json:"username"`
	} `json:"user"`
	ObjectRef *struct {
		Namespace, Name, Resource, Subresource, APIGroup string
	} `json:"objectRef"`
	ResponseStatus struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	} `json:"responseStatus"`
	RequestURI string `json:"requestURI"`
}

func (e *auditEvent) String() string {
	return fmt.Sprintf("%s %s: %d %s", e.Verb, e.RequestURI, e.ResponseStatus.Code, e.ResponseStatus.Message)
}

// permission is one verb that a role grants for one resource.
type permission struct {
	namespace, verb, group, resource string
	names                            []string
}

func (p *permission) String() string {
	text := strings.Join(strings.Fields(p.verb+" "+p.group+" "+p.resource), " ")
	if p.names != nil {
		text += " " + strings.Join(p.names, ",")
	}
	if p.namespace != "" {
		text += " in " + p.namespace
	}
	return text
}

// allows says whether a request needed this permission. Reading a list and
// watching it are one: client-go streams a list where the API server can, and
// lists where it cannot. To apply what is not there takes both patch and create.
func (p *permission) allows(e *auditEvent) bool {
	verbs := []string{p.verb}
	switch {
	case p.verb == "list" || p.verb == "watch":
		verbs = []string{"list", "watch"}
	case p.verb == "create" && e.ResponseStatus.Code == http.StatusCreated:
		verbs = []string{"create", "patch"}
	}
	resource := e.ObjectRef.Resource
	if e.ObjectRef.Subresource != "" {
		resource += "/" + e.ObjectRef.Subresource
	}
	return slices.Contains(verbs, e.Verb) && p.group == e.ObjectRef.APIGroup && p.resource == resource &&
		(p.namespace == "" || p.namespace == e.ObjectRef.Namespace) &&
		(p.names == nil || slices.Contains(p.names, e.ObjectRef.Name))
}

// granted are the operator's permissions.
func granted(g Gomega) (all []*permission) {
	add := func(namespace string, rules []rbacv1.PolicyRule) {
		for _, rule := range rules {
			g.Expect(rule.NonResourceURLs).To(BeEmpty())
			g.Expect(slices.Concat(rule.Verbs, rule.Resources, rule.APIGroups)).NotTo(ContainElement("*"), "exact verbs, resources and groups")
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					for _, verb := range rule.Verbs {
						all = append(all, &permission{namespace, verb, group, resource, rule.ResourceNames})
					}
				}
			}
		}
	}
	bindings := &rbacv1.ClusterRoleBindingList{}
	g.Expect(cluster.List(ctx, bindings)).To(Succeed())
	for i := range bindings.Items {
		if isOperators(bindings.Items[i].Subjects) {
			role := &rbacv1.ClusterRole{}
			g.Expect(cluster.Get(ctx, client.ObjectKey{Name: bindings.Items[i].RoleRef.Name}, role)).To(Succeed())
			add(metav1.NamespaceAll, role.Rules)
		}
	}
	local := &rbacv1.RoleBindingList{}
	g.Expect(cluster.List(ctx, local)).To(Succeed())
	for i := range local.Items {
		if isOperators(local.Items[i].Subjects) {
			role := &rbacv1.Role{}
			g.Expect(cluster.Get(ctx, client.ObjectKey{Namespace: local.Items[i].Namespace, Name: local.Items[i].RoleRef.Name}, role)).To(Succeed())
			add(role.Namespace, role.Rules)
		}
	}
	return all
}

func isOperators(subjects []rbacv1.Subject) bool {
	return slices.ContainsFunc(subjects, func(s rbacv1.Subject) bool {
		return s.Kind == rbacv1.ServiceAccountKind && s.Namespace == systemNamespace && s.Name == "weir-operator"
	})
}

// After all of the suite, what the operator may do is compared with what it did.
var _ = ReportAfterSuite("the operator has the permissions that it uses, and no others", func(report Report) {
	file := os.Getenv("AUDIT_LOG")
	if file == "" || !report.SuiteSucceeded || report.PreRunStats.SpecsThatWillRun < report.PreRunStats.TotalSpecs {
		GinkgoWriter.Println("not compared: that takes AUDIT_LOG, and the whole suite")
		return
	}
	g := NewWithT(GinkgoT())
	g.Expect(undone(g, file)).To(BeEmpty())
})

// undone are differences between what is granted and what an audit log shows.
func undone(g Gomega, file string) (differences []string) {
	log, err := os.Open(file)
	g.Expect(err).NotTo(HaveOccurred())
	defer func() { _ = log.Close() }()
	all := granted(g)
	used := map[*permission]bool{}
	events := 0
	lines := bufio.NewScanner(log)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		if !strings.Contains(lines.Text(), operatorUser) {
			continue
		}
		event := &auditEvent{}
		g.Expect(json.Unmarshal(lines.Bytes(), event)).To(Succeed())
		if event.User.Username != operatorUser || event.ObjectRef == nil {
			continue
		}
		events++
		if event.ResponseStatus.Code == http.StatusForbidden && !terminating(event) {
			differences = append(differences, "refused: "+event.String())
		}
		for _, p := range all {
			used[p] = used[p] || p.allows(event)
		}
	}
	g.Expect(lines.Err()).NotTo(HaveOccurred())
	g.Expect(events).To(BeNumerically(">", 100), "the audit log shows the operator")
	for _, p := range all {
		if !used[p] && unused[p.String()] == "" {
			differences = append(differences, "granted, and not used: "+p.String())
		}
	}
	return differences
}

// terminating: what a namespace refuses that is being deleted is no question of
// permissions.
func terminating(e *auditEvent) bool {
	return strings.Contains(e.ResponseStatus.Message, "because it is being terminated")
}
