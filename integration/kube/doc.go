// Package kube holds the tests against a real Kubernetes of one node: etcd, kube-apiserver, controllers, scheduler and a kubelet, on the containerd and the sproutd of package
// stack. `make kube-test` builds them and runs it; `make test` leaves it out.
//
// The whole cluster lives in a network and a mount namespace of its own (enclosure_test.go): its bridge, its iptables chains, what CNI and the kubelet write below /var and the
// addresses that it serves on are nobody else's. The few settings of the kernel that a kubelet changes and that have no namespace are put back.
//
// What is applied is contrib/kubernetes as it lies there. Pods are restored and cloned. They are not thawed: a spare has a network namespace of its own since it was made, each of
// its tasks holds it, sockets that listen are bound to it for good, and setns(2) moves only the task that calls it, and no socket at all.
package kube
