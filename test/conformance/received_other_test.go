//go:build !linux

package conformance

// awaitReceived is without effect where the kernel does not tell: what is to be
// seen after it is then seen with less certainty.
func (c *conn) awaitReceived() {}
