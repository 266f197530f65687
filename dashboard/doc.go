// Package dashboard is the page on port 5555: who is limited, by what and until
// when; and what becomes of tasks.
//
// Every view is a GET of an address of its own, rendered here. Asked for as a
// stream of events (text/event-stream) the same address sends the view again
// whenever it is another. Actions are POSTs, each an event of the object that it
// is about.
//
// Kubernetes decides who may see and do what (SubjectAccessReview):
//
//	list    ratelimitpolicies          a namespace's limits
//	get     ratelimitpolicies          one policy, with what happens at it, and its pods
//	list    ratelimitpolicies/usage    its top callers and refusals
//	get     ratelimitpolicies/usage    one caller, by its name
//	get     ratelimitpolicies/status   callers by their names
//	create  ratelimitpolicies/resets   to empty a caller's windows
//	create  ratelimitpolicies/grants   to grant a caller more for a time
//	list    periodictasks              a namespace's schedules, queues and workers
//	get     periodictasks/runs         its tasks: arguments, results, errors
//	create  periodictasks/runs         to run one now, to try it again
//	delete  periodictasks/runs         to revoke it
//
// A task is its PeriodicTask's; one that goes back to none belongs to the
// namespaces whose PeriodicTasks name its queue. What belongs to none is for
// those who may in all namespaces.
package dashboard

// +kubebuilder:rbac:groups=weir.dev,resources=ratelimitpolicies;periodictasks,verbs=list;watch
// +kubebuilder:rbac:groups=weir.dev,resources=ratelimitpolicies,verbs=get
// +kubebuilder:rbac:groups=admissionregistration.k8s.io,resources=mutatingwebhookconfigurations,resourceNames=weir,verbs=get
// +kubebuilder:rbac:groups=weir.dev,resources=ratelimitpolicies/status,verbs=patch
// +kubebuilder:rbac:groups=batch,resources=jobs,verbs=list;watch
// +kubebuilder:rbac:groups=authentication.k8s.io,resources=tokenreviews,verbs=create
// +kubebuilder:rbac:groups=authorization.k8s.io,resources=subjectaccessreviews,verbs=create
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch
