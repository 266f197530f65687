package injection

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// containerOf is a container with variables, written NAME=value.
func containerOf(variables ...string) *corev1.Container {
	container := &corev1.Container{Name: "app"}
	for _, variable := range variables {
		name, value, _ := strings.Cut(variable, "=")
		container.Env = append(container.Env, corev1.EnvVar{Name: name, Value: value})
	}
	return container
}

// valueOf is the value that a process would see, and whether there is one.
func valueOf(container *corev1.Container, name string) (string, bool) {
	at := lastVariable(container, name)
	if at < 0 {
		return "", false
	}
	return container.Env[at].Value, true
}

func TestAnApplicationsVariableIsNeverReplaced(t *testing.T) {
	t.Parallel()
	const bundle = "/var/run/weir-trust/ca-bundle.crt"
	for _, c := range []struct {
		reason string
		told   environment
		own    []string
		kept   []string
		// unset are not set, since the application's own would no longer be read.
		unset []string
		set   map[string]string
	}{
		{
			reason: "it says nothing", told: environment{trust: true},
			set: map[string]string{"SSL_CERT_FILE": bundle, "REQUESTS_CA_BUNDLE": bundle, "CURL_CA_BUNDLE": bundle, "AWS_CA_BUNDLE": bundle,
				"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": bundle, "NODE_EXTRA_CA_CERTS": "/var/run/weir-trust/authorities.crt"},
		},
		{
			reason: "a variable that it set empty is set", told: environment{trust: true},
			own: []string{"NODE_EXTRA_CA_CERTS="}, kept: []string{"NODE_EXTRA_CA_CERTS"},
			set: map[string]string{"NODE_EXTRA_CA_CERTS": "", "SSL_CERT_FILE": bundle},
		},
		{
			reason: "curl and the AWS clients read its SSL_CERT_FILE where theirs are not set", told: environment{trust: true},
			own: []string{"SSL_CERT_FILE=/own"}, kept: []string{"SSL_CERT_FILE"}, unset: []string{"CURL_CA_BUNDLE", "AWS_CA_BUNDLE"},
			set: map[string]string{"SSL_CERT_FILE": "/own", "REQUESTS_CA_BUNDLE": bundle, "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": bundle},
		},
		{
			reason: "curl reads its SSL_CERT_DIR too; what reads SSL_CERT_FILE reads both", told: environment{trust: true},
			own: []string{"SSL_CERT_DIR=/own"}, kept: []string{"SSL_CERT_DIR"}, unset: []string{"CURL_CA_BUNDLE", "AWS_CA_BUNDLE"},
			set: map[string]string{"SSL_CERT_FILE": bundle},
		},
		{
			reason: "Python's requests reads its CURL_CA_BUNDLE where REQUESTS_CA_BUNDLE is not set", told: environment{trust: true},
			own: []string{"CURL_CA_BUNDLE=/own"}, kept: []string{"CURL_CA_BUNDLE"}, unset: []string{"REQUESTS_CA_BUNDLE"},
			set: map[string]string{"SSL_CERT_FILE": bundle, "AWS_CA_BUNDLE": bundle},
		},
		{
			reason: "no proxy", told: environment{proxied: true},
			set: map[string]string{"HTTP_PROXY": "http://127.0.0.1:14001", "http_proxy": "http://127.0.0.1:14001",
				"HTTPS_PROXY": "http://127.0.0.1:14001", "https_proxy": "http://127.0.0.1:14001",
				"NO_PROXY": "localhost,127.0.0.1,::1", "no_proxy": "localhost,127.0.0.1,::1", "NODE_USE_ENV_PROXY": "1"},
			unset: []string{"ALL_PROXY", "SSL_CERT_FILE"},
		},
		{
			reason: "clients read either spelling first; exceptions from its proxy are its own; Node must not begin to use it", told: environment{proxied: true},
			own: []string{"HTTPS_PROXY=http://corporate:3128"}, kept: []string{"HTTPS_PROXY"},
			unset: []string{"https_proxy", "NO_PROXY", "no_proxy", "NODE_USE_ENV_PROXY"},
			set:   map[string]string{"HTTPS_PROXY": "http://corporate:3128", "HTTP_PROXY": "http://127.0.0.1:14001"},
		},
		{
			reason: "a proxy for all schemes is read last", told: environment{proxied: true},
			own: []string{"all_proxy=socks5://corporate"}, kept: []string{"all_proxy"},
			unset: []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "NODE_USE_ENV_PROXY"},
		},
		{
			reason: "it asks for no proxy", told: environment{proxied: true},
			own: []string{"http_proxy="}, kept: []string{"http_proxy"}, unset: []string{"HTTP_PROXY"},
		},
		{
			reason: "its exceptions hold", told: environment{proxied: true},
			own: []string{"no_proxy=.svc"}, kept: []string{"no_proxy"}, unset: []string{"NO_PROXY"},
			set: map[string]string{"no_proxy": ".svc", "HTTP_PROXY": "http://127.0.0.1:14001"},
		},
		{
			reason: "our own value is nothing to report", told: environment{proxied: true},
			own: []string{"HTTP_PROXY=http://127.0.0.1:14001", "NODE_USE_ENV_PROXY=0"}, kept: []string{"NODE_USE_ENV_PROXY"},
			set: map[string]string{"http_proxy": "http://127.0.0.1:14001", "NODE_USE_ENV_PROXY": "0"},
		},
	} {
		container := containerOf(c.own...)
		gaps := c.told.tell([]*corev1.Container{container}, nil)
		if kept := slices.Concat(gaps[0].trust, gaps[0].proxy); !slices.Equal(kept, c.kept) {
			t.Errorf("%s: kept %v, want %v", c.reason, kept, c.kept)
		}
		for _, name := range c.unset {
			if value, found := valueOf(container, name); found {
				t.Errorf("%s: %s is %q, want it not set", c.reason, name, value)
			}
		}
		for name, want := range c.set {
			if value, found := valueOf(container, name); !found || value != want {
				t.Errorf("%s: %s is %q (set: %v), want %q", c.reason, name, value, found, want)
			}
		}
		told := container.DeepCopy()
		if c.told.tell([]*corev1.Container{container}, nil); asYAML(t, told) != asYAML(t, container) {
			t.Errorf("%s: telling twice changed the container:\n%s", c.reason, asYAML(t, container))
		}
	}
}

func TestJavaOptions(t *testing.T) {
	t.Parallel()
	trust, proxy := javaTrust.options, javaProxy.options
	both := environment{trust: true, proxied: true}
	from := containerOf()
	from.Env = []corev1.EnvVar{{Name: javaToolOptions, ValueFrom: &corev1.EnvVarSource{}}}
	command := containerOf()
	command.Command = []string{"sh", "-c", "exec java -Dhttps.proxyHost=corporate -jar app.jar"}
	for _, c := range []struct {
		reason      string
		container   *corev1.Container
		want        string
		keptOfTrust string
		keptOfProxy string
	}{
		{reason: "nothing said", container: containerOf(), want: proxy + " " + trust},
		{reason: "its options come last, so that they win", container: containerOf("JAVA_TOOL_OPTIONS=-Xmx1g -Da=b"), want: proxy + " " + trust + " -Xmx1g -Da=b"},
		{reason: "of two variables the last counts", container: containerOf("JAVA_TOOL_OPTIONS=-Xmx1g", "JAVA_TOOL_OPTIONS=-Xmx2g"), want: proxy + " " + trust + " -Xmx2g"},
		{reason: "an empty variable", container: containerOf("JAVA_TOOL_OPTIONS="), want: proxy + " " + trust},
		{
			reason: "a truststore of its own: half of ours beside half of its would open neither", container: containerOf("JAVA_TOOL_OPTIONS=-Djavax.net.ssl.trustStore=/own"),
			want: proxy + " -Djavax.net.ssl.trustStore=/own", keptOfTrust: "javax.net.ssl.trustStore",
		},
		{
			reason: "a truststore in another variable", container: containerOf("JDK_JAVA_OPTIONS=-Djavax.net.ssl.trustStoreType=JKS"),
			want: proxy, keptOfTrust: "javax.net.ssl.trustStore",
		},
		{reason: "a proxy on the command line", container: command, want: trust, keptOfProxy: "https.proxyHost"},
		{reason: "a value that cannot be seen", container: from, want: "", keptOfTrust: javaToolOptions, keptOfProxy: javaToolOptions},
	} {
		gaps := both.tell([]*corev1.Container{c.container}, nil)
		if got, _ := valueOf(c.container, javaToolOptions); got != c.want {
			t.Errorf("%s: got\n%s\nwant\n%s", c.reason, got, c.want)
		}
		if got := strings.Join(gaps[0].trust, ","); got != c.keptOfTrust {
			t.Errorf("%s: kept %q of trust, want %q", c.reason, got, c.keptOfTrust)
		}
		if got := strings.Join(gaps[0].proxy, ","); got != c.keptOfProxy {
			t.Errorf("%s: kept %q of the proxy, want %q", c.reason, got, c.keptOfProxy)
		}
	}
}

// TestReadOnlyPlaces holds that no container fails to start because the runtime
// cannot make the directory that the trust bundle is mounted at.
func TestReadOnlyPlaces(t *testing.T) {
	t.Parallel()
	volumes := []corev1.Volume{
		{Name: "writable"},
		{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{}}},
	}
	for _, c := range []struct {
		reason   string
		mount    corev1.VolumeMount
		readOnly string
	}{
		{"beside it", corev1.VolumeMount{Name: "writable", MountPath: "/var/run/other", ReadOnly: true}, ""},
		{"a longer name", corev1.VolumeMount{Name: "writable", MountPath: "/var/runner", ReadOnly: true}, ""},
		{"a writable parent", corev1.VolumeMount{Name: "writable", MountPath: "/var/run"}, ""},
		{"a parent that is read-only", corev1.VolumeMount{Name: "writable", MountPath: "/var/run/", ReadOnly: true}, "/var/run/"},
		{"what /var/run leads to", corev1.VolumeMount{Name: "writable", MountPath: "/run", ReadOnly: true}, "/run"},
		{"the whole file system", corev1.VolumeMount{Name: "writable", MountPath: "/", ReadOnly: true}, "/"},
		{"a kind of volume that is always read-only", corev1.VolumeMount{Name: "config", MountPath: "/var"}, "/var"},
	} {
		container := containerOf()
		container.VolumeMounts = []corev1.VolumeMount{c.mount}
		gaps := environment{trust: true}.tell([]*corev1.Container{container}, volumes)
		if gaps[0].readOnly != c.readOnly {
			t.Errorf("%s: %q is in the way, want %q", c.reason, gaps[0].readOnly, c.readOnly)
		}
		mounted := len(container.VolumeMounts) == 2
		if _, told := valueOf(container, "SSL_CERT_FILE"); mounted != (c.readOnly == "") || told != mounted {
			t.Errorf("%s: mounted %v, told of it %v, want both %v", c.reason, mounted, told, c.readOnly == "")
		}
	}
}
