package injection

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// javaToolOptions is the variable that every JVM reads, however it is started.
const javaToolOptions = "JAVA_TOOL_OPTIONS"

// javaProperties are system properties that injection gives to the JVMs of a
// container.
type javaProperties struct {
	options string
	// marks are the properties by which an application says the same itself.
	marks []string
}

// setJava puts options before those that the application has in
// JAVA_TOOL_OPTIONS: of a property that is given twice the last counts, so the
// application's own win, here as on the command line. It returns what the
// application says itself instead, which keeps ours out, and whether it added
// the variable.
func setJava(container *corev1.Container, properties javaProperties) (own string, added bool) {
	at := lastVariable(container, javaToolOptions)
	if at >= 0 && strings.Contains(container.Env[at].Value, properties.options) {
		return "", false // injected before
	}
	if mark := mentioned(container, properties.marks); mark != "" {
		return mark, false
	}
	if at < 0 {
		container.Env = append(container.Env, corev1.EnvVar{Name: javaToolOptions, Value: properties.options})
		return "", true
	}
	variable := &container.Env[at]
	if variable.ValueFrom != nil {
		return javaToolOptions, false // what it says cannot be seen
	}
	variable.Value = strings.TrimSpace(properties.options + " " + variable.Value)
	return "", false
}

// mentioned is the first mark that the container's variables or its command
// line name; empty when they name none.
func mentioned(container *corev1.Container, marks []string) string {
	texts := slices.Concat(container.Command, container.Args)
	for _, env := range container.Env {
		texts = append(texts, env.Value)
	}
	for _, mark := range marks {
		if slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(text, mark) }) {
			return mark
		}
	}
	return ""
}

// lastVariable is the place of the variable in env, -1 when it is not there.
// Of two with one name the last counts.
func lastVariable(container *corev1.Container, name string) int {
	for i, env := range slices.Backward(container.Env) {
		if env.Name == name {
			return i
		}
	}
	return -1
}
