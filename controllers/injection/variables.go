package injection

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// variable is one that injection sets in a container.
type variable struct {
	name, value string
	// stands are the variables that clients read where name is not set. Setting
	// name would replace what the application says with one of them.
	stands []string
}

// setVariables sets variables in a container, each unless the application set
// it or one that stands for it, and properties for its JVMs. It returns what the
// application says itself, each once, and appends to set the variables that
// were not there before.
func setVariables(container *corev1.Container, set []string, variables []variable, properties javaProperties) (kept, all []string) {
	for _, v := range variables {
		own := ownVariable(container, append([]string{v.name}, v.stands...), variables)
		switch {
		case own != "":
			if !slices.Contains(kept, own) {
				kept = append(kept, own)
			}
		case !hasVariable(container, v.name):
			container.Env = append(container.Env, corev1.EnvVar{Name: v.name, Value: v.value})
			set = append(set, v.name)
		}
	}
	own, added := setJava(container, properties)
	if own != "" {
		kept = append(kept, own)
	}
	if added {
		set = append(set, javaToolOptions)
	}
	return kept, set
}

// ownVariable is the first of the names that the application sets itself, and
// not with the value that it would get from us; empty when there is none.
func ownVariable(container *corev1.Container, names []string, ours []variable) string {
	for _, name := range names {
		for _, env := range container.Env {
			if env.Name == name && !slices.ContainsFunc(ours, func(v variable) bool { return v.name == name && v.value == env.Value }) {
				return name
			}
		}
	}
	return ""
}

func hasVariable(container *corev1.Container, name string) bool {
	return slices.ContainsFunc(container.Env, func(env corev1.EnvVar) bool { return env.Name == name })
}

// unseen are those of the names that a ConfigMap or Secret may set for the
// container (envFrom), which injection does not read. Variables of env go
// before them (kubelet_pods.go, makeEnvironmentVariables). A source's prefix
// tells some of what it cannot set.
func unseen(container *corev1.Container, names []string) []string {
	var found []string
	for _, name := range names {
		if slices.ContainsFunc(container.EnvFrom, func(source corev1.EnvFromSource) bool { return strings.HasPrefix(name, source.Prefix) }) {
			found = append(found, name)
		}
	}
	return found
}
