//! The table: one line per field, in the order of Kubernetes' API reference.

use super::Table;
use super::Use::{Acted, Beside, Fields, Items, Keys, Not, Only};

const SELINUX: &str = "no SELinux label is set";
const APPARMOR: &str = "no AppArmor profile is set";
const WINDOWS: &str = "there are no Windows nodes";
const NO_TOKEN: &str = "there are no service accounts: the pod gets no token";
const NO_VOLUME: &str = "there are no volumes of this kind: containers that mount it do not start";
const PLACED_ANYWAY: &str = "the pod is placed without regard to it";

/// `spec` of a pod.
pub(super) const POD: Table = &[
    ("volumes", Items(VOLUME)),
    ("initContainers", Items(CONTAINER)),
    ("containers", Items(CONTAINER)),
    ("ephemeralContainers", Not("no container can be added to a running pod")),
    ("restartPolicy", Acted),
    ("terminationGracePeriodSeconds", Acted),
    (
        "activeDeadlineSeconds",
        Not("the pod is never ended for running too long"),
    ),
    ("dnsPolicy", Acted),
    ("nodeSelector", Acted),
    ("serviceAccountName", Only(&["default"], NO_TOKEN)),
    ("serviceAccount", Only(&["default"], NO_TOKEN)),
    ("automountServiceAccountToken", Not(NO_TOKEN)),
    ("nodeName", Acted),
    ("hostNetwork", Acted),
    ("hostPID", Acted),
    ("hostIPC", Acted),
    ("shareProcessNamespace", Acted),
    ("securityContext", Fields(POD_SECURITY)),
    ("imagePullSecrets", Not("images are pulled without credentials")),
    ("hostname", Acted),
    ("subdomain", Acted),
    ("affinity", Fields(AFFINITY)),
    (
        "schedulerName",
        Only(
            &["default-scheduler"],
            "minidc has no such scheduler: the pod waits until somebody binds it",
        ),
    ),
    ("tolerations", Acted),
    ("hostAliases", Acted),
    ("priorityClassName", Not("all pods are equally important")),
    ("priority", Not("all pods are equally important")),
    ("dnsConfig", Acted),
    ("readinessGates", Acted),
    ("runtimeClassName", Not("containers run in the default runtime")),
    ("enableServiceLinks", Acted),
    (
        "preemptionPolicy",
        Only(&["PreemptLowerPriority", "Never"], "no pod is ever removed for another"),
    ),
    ("overhead", Acted),
    ("topologySpreadConstraints", Not(PLACED_ANYWAY)),
    ("setHostnameAsFQDN", Acted),
    ("os", Fields(&[("name", Only(&["linux"], WINDOWS))])),
    ("hostUsers", Only(&["true"], "the pod shares the node's user ids")),
    ("schedulingGates", Acted),
    ("resourceClaims", Not("the pod gets no devices")),
    ("resources", Not("only requests and limits of the containers count")),
    ("hostnameOverride", Acted),
    ("schedulingGroup", Not("the pod is placed on its own")),
];

const AFFINITY: Table = &[
    (
        "nodeAffinity",
        Fields(&[
            ("requiredDuringSchedulingIgnoredDuringExecution", Acted),
            ("preferredDuringSchedulingIgnoredDuringExecution", Not(PLACED_ANYWAY)),
        ]),
    ),
    ("podAffinity", Not(PLACED_ANYWAY)),
    ("podAntiAffinity", Not(PLACED_ANYWAY)),
];

const POD_SECURITY: Table = &[
    ("seLinuxOptions", Not(SELINUX)),
    ("windowsOptions", Not(WINDOWS)),
    ("runAsUser", Acted),
    ("runAsGroup", Acted),
    ("runAsNonRoot", Acted),
    ("supplementalGroups", Acted),
    (
        "supplementalGroupsPolicy",
        Only(&["Merge"], "groups named in the image count, too"),
    ),
    ("fsGroup", Acted),
    ("sysctls", Acted),
    (
        "fsGroupChangePolicy",
        Only(&["Always"], "volumes are given to fsGroup at every start of the pod"),
    ),
    ("seccompProfile", Acted),
    ("appArmorProfile", Not(APPARMOR)),
    ("seLinuxChangePolicy", Not(SELINUX)),
];

/// A container or init container.
pub(super) const CONTAINER: Table = &[
    ("name", Acted),
    ("image", Acted),
    ("command", Acted),
    ("args", Acted),
    ("workingDir", Acted),
    ("ports", Acted),
    ("envFrom", Acted),
    ("env", Items(VARIABLE)),
    ("resources", Fields(RESOURCES)),
    ("resizePolicy", Not("resources of a running container cannot change")),
    // Of init containers; others cannot have it. Always makes a sidecar.
    ("restartPolicy", Acted),
    ("restartPolicyRules", Not("only restartPolicy decides about a restart")),
    ("volumeMounts", Items(MOUNT)),
    ("volumeDevices", Not("the container gets no block devices")),
    ("livenessProbe", Acted),
    ("readinessProbe", Acted),
    ("startupProbe", Acted),
    (
        "lifecycle",
        Fields(&[
            ("postStart", Acted),
            ("preStop", Acted),
            ("stopSignal", Not("the image decides which signal ends the container")),
        ]),
    ),
    ("terminationMessagePath", Acted),
    ("terminationMessagePolicy", Acted),
    ("imagePullPolicy", Acted),
    ("securityContext", Fields(SECURITY)),
    ("stdin", Acted),
    ("stdinOnce", Acted),
    ("tty", Acted),
];

const VARIABLE: Table = &[
    ("name", Acted),
    ("value", Acted),
    (
        "valueFrom",
        Fields(&[
            ("fieldRef", Acted),
            ("resourceFieldRef", Acted),
            ("configMapKeyRef", Acted),
            ("secretKeyRef", Acted),
            ("fileKeyRef", Not("the variable is not set")),
        ]),
    ),
];

const RESOURCES: Table = &[
    ("limits", Keys(&["cpu", "memory"], "the container is not limited in it")),
    (
        "requests",
        Keys(&["cpu", "memory"], "nothing is set aside for the container"),
    ),
    ("claims", Not("the container gets no devices")),
];

const MOUNT: Table = &[
    ("name", Acted),
    ("readOnly", Acted),
    (
        "recursiveReadOnly",
        Only(&["Disabled"], "mounts below it stay writable"),
    ),
    ("mountPath", Acted),
    ("subPath", Acted),
    ("mountPropagation", Acted),
    ("subPathExpr", Acted),
];

const SECURITY: Table = &[
    ("capabilities", Acted),
    ("privileged", Acted),
    ("seLinuxOptions", Not(SELINUX)),
    ("windowsOptions", Not(WINDOWS)),
    ("runAsUser", Acted),
    ("runAsGroup", Acted),
    ("runAsNonRoot", Acted),
    ("readOnlyRootFilesystem", Acted),
    ("allowPrivilegeEscalation", Acted),
    ("procMount", Acted),
    ("seccompProfile", Acted),
    ("appArmorProfile", Not(APPARMOR)),
];

/// A volume.
pub(super) const VOLUME: Table = &[
    ("name", Acted),
    ("hostPath", Acted),
    (
        "emptyDir",
        Fields(&[
            ("medium", Only(&["Memory"], "the volume is on the node's disk")),
            ("sizeLimit", Beside("medium", "Memory", "the volume can grow beyond it")),
        ]),
    ),
    ("secret", Acted),
    ("downwardAPI", Acted),
    ("configMap", Acted),
    (
        "projected",
        Fields(&[
            ("defaultMode", Acted),
            (
                "sources",
                Items(&[
                    ("secret", Acted),
                    ("downwardAPI", Acted),
                    ("configMap", Acted),
                    ("serviceAccountToken", Not("the file does not appear in the volume")),
                    ("clusterTrustBundle", Not("the file does not appear in the volume")),
                    ("podCertificate", Not("the files do not appear in the volume")),
                ]),
            ),
        ]),
    ),
    ("gcePersistentDisk", Not(NO_VOLUME)),
    ("awsElasticBlockStore", Not(NO_VOLUME)),
    ("gitRepo", Not(NO_VOLUME)),
    ("nfs", Not(NO_VOLUME)),
    ("iscsi", Not(NO_VOLUME)),
    ("glusterfs", Not(NO_VOLUME)),
    ("persistentVolumeClaim", Not(NO_VOLUME)),
    ("rbd", Not(NO_VOLUME)),
    ("flexVolume", Not(NO_VOLUME)),
    ("cinder", Not(NO_VOLUME)),
    ("cephfs", Not(NO_VOLUME)),
    ("flocker", Not(NO_VOLUME)),
    ("fc", Not(NO_VOLUME)),
    ("azureFile", Not(NO_VOLUME)),
    ("vsphereVolume", Not(NO_VOLUME)),
    ("quobyte", Not(NO_VOLUME)),
    ("azureDisk", Not(NO_VOLUME)),
    ("photonPersistentDisk", Not(NO_VOLUME)),
    ("portworxVolume", Not(NO_VOLUME)),
    ("scaleIO", Not(NO_VOLUME)),
    ("storageos", Not(NO_VOLUME)),
    ("csi", Not(NO_VOLUME)),
    ("ephemeral", Not(NO_VOLUME)),
    ("image", Not(NO_VOLUME)),
];

/// `spec` of a service.
pub(super) const SERVICE: Table = &[
    ("ports", Items(SERVICE_PORT)),
    ("selector", Acted),
    ("clusterIP", Acted),
    ("clusterIPs", Acted),
    ("type", Acted),
    ("externalIPs", Acted),
    ("sessionAffinity", Acted),
    ("loadBalancerIP", Acted),
    ("loadBalancerSourceRanges", Not("traffic from everywhere is let in")),
    ("externalName", Acted),
    ("externalTrafficPolicy", Acted),
    (
        "healthCheckNodePort",
        Not("nodes do not tell at this port whether they have endpoints"),
    ),
    ("publishNotReadyAddresses", Acted),
    ("sessionAffinityConfig", Acted),
    ("ipFamilies", Acted),
    ("ipFamilyPolicy", Acted),
    ("allocateLoadBalancerNodePorts", Acted),
    (
        "loadBalancerClass",
        Not("minidc has no load balancer of any class: the service waits until somebody gives it an address"),
    ),
    ("internalTrafficPolicy", Acted),
    ("trafficDistribution", Not("all endpoints are equally near")),
];

const SERVICE_PORT: Table = &[
    ("name", Acted),
    ("protocol", Only(&["TCP", "UDP"], "its traffic is not passed on")),
    ("appProtocol", Acted),
    ("port", Acted),
    ("targetPort", Acted),
    ("nodePort", Acted),
];

/// Tables and the schema types they are about; a test compares them.
#[cfg(test)]
pub(super) const TYPES: &[(&str, Table)] = &[
    ("PodSpec", POD),
    ("PodSecurityContext", POD_SECURITY),
    ("Affinity", AFFINITY),
    ("Container", CONTAINER),
    ("EnvVar", VARIABLE),
    ("ResourceRequirements", RESOURCES),
    ("VolumeMount", MOUNT),
    ("SecurityContext", SECURITY),
    ("Volume", VOLUME),
    ("ServiceSpec", SERVICE),
    ("ServicePort", SERVICE_PORT),
];
