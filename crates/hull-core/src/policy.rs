//! Who may do what: the one place where that is decided. Default deny.
//!
//! Every operation of the API is an [`Act`] with one row: who may. A call is looked at twice by the same rule: at the door, where only the
//! operation is known, and at the resource, once it is found.
//!
//! ```text
//!   operation ─> Act ─> Who ─┐
//!   caller ─> Grants ────────┼─> decide ─> Allow
//!   place: somewhere, the    │            ├> Hide     the caller must not learn that it is there: 404
//!   system, a project, a user┘            └> Refuse   403, and why
//! ```
//!
//! A role on the system holds in every project. A new endpoint needs a row here (a test compares the rows with the API's description) and
//! a row in the table of `hull-server/tests/api/policy.rs`, which plays every kind of caller.

use std::collections::BTreeMap;

use hull_types::{
    id::{ProjectId, UserId},
    token::{Role, Scope},
    wire::Grant,
};

/// The roles a caller has, each the strongest of what was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// On the system, and so everywhere.
    pub system: Option<Role>,
    /// In projects.
    pub projects: BTreeMap<ProjectId, Role>,
}

impl Grants {
    /// A role on the system.
    pub const fn system(role: Role) -> Self {
        Self { system: Some(role), projects: BTreeMap::new() }
    }

    /// One role somewhere.
    pub fn of(role: Role, scope: Scope) -> Self {
        let mut grants = Self::default();
        grants.add(role, scope);
        grants
    }

    /// Adds a role.
    pub fn add(&mut self, role: Role, scope: Scope) {
        match scope {
            Scope::System => self.system = self.system.max(Some(role)),
            Scope::Project(project) => {
                let own = self.projects.entry(project).or_insert(role);
                *own = role.max(*own);
            }
        }
    }

    /// What is left of them within a scope.
    #[must_use]
    pub fn within(self, limit: Scope) -> Self {
        match limit {
            Scope::System => Self { projects: BTreeMap::new(), ..self },
            Scope::Project(project) => {
                let own = self.in_project(project).map(|role| (project, role));
                Self { system: None, projects: own.into_iter().collect() }
            }
        }
    }

    /// The same places with at most this role.
    #[must_use]
    pub fn at_most(self, role: Role) -> Self {
        let projects = self.projects.into_iter().map(|(project, own)| (project, own.min(role))).collect();
        Self { system: self.system.map(|own| own.min(role)), projects }
    }

    /// The role in a project; none where the caller must not know of it.
    pub fn in_project(&self, project: ProjectId) -> Option<Role> {
        self.system.max(self.projects.get(&project).copied())
    }

    /// The strongest role anywhere.
    pub fn anywhere(&self) -> Option<Role> {
        self.projects.values().copied().max().max(self.system)
    }

    /// The project of a caller who has but one.
    pub fn home(&self) -> Option<ProjectId> {
        let mut own = self.projects.keys();
        let first = own.next().filter(|_| self.system.is_none())?;
        own.next().is_none().then_some(*first)
    }

    /// All of them.
    pub fn list(&self) -> Vec<Grant> {
        let system = self.system.map(|role| Grant { role, scope: Scope::System });
        let projects = self.projects.iter().map(|(&project, &role)| Grant { role, scope: Scope::Project(project) });
        system.into_iter().chain(projects).collect()
    }
}

/// Who may act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Everyone, without credentials.
    Everyone,
    /// Whoever has credentials; what they see is what their roles show.
    Known,
    /// A user, on what is their own; others with this role on the system.
    Own(Role),
    /// This role in the resource's project.
    Project(Role),
    /// This role on the system.
    System(Role),
}

/// Where a call acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Not known yet: the door lets through who might be allowed.
    Somewhere,
    /// The whole cloud.
    System,
    /// A project.
    Project(ProjectId),
    /// What belongs to a user.
    User(UserId),
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// The user, where it is themself and not a program that acts for them.
    pub user: Option<UserId>,
    /// Their roles.
    pub grants: &'a Grants,
}

/// What is decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may be.
    Allow,
    /// As if it were not there.
    Hide,
    /// No, and why.
    Refuse(String),
}

/// Decides.
pub fn decide(asker: Asker<'_>, who: Who, place: Place) -> Verdict {
    let Asker { user, grants } = asker;
    match (who, place) {
        (Who::Everyone | Who::Known, Place::Somewhere | Place::System) => Verdict::Allow,
        (Who::Everyone | Who::Known, Place::Project(project)) => shown(grants.in_project(project), Role::Reader),
        (Who::Everyone | Who::Known, Place::User(owner)) => own(user, grants, owner, Role::Reader),
        (Who::Own(_), Place::Somewhere) if user.is_some() => Verdict::Allow,
        (Who::Own(role), Place::Somewhere | Place::System | Place::Project(_)) => enough(grants.system, role, true),
        (Who::Own(role), Place::User(owner)) => own(user, grants, owner, role),
        (Who::Project(role), Place::Somewhere) => enough(grants.anywhere(), role, false),
        (Who::Project(role), Place::Project(project)) => shown(grants.in_project(project), role),
        (Who::Project(role) | Who::System(role), Place::System) => enough(grants.system, role, true),
        (Who::System(role), Place::Somewhere | Place::Project(_)) => enough(grants.system, role, true),
        (Who::Project(role) | Who::System(role), Place::User(_)) => enough(grants.system, role, true),
    }
}

/// Of what the caller does not see, nothing is said.
fn shown(has: Option<Role>, needs: Role) -> Verdict {
    match has {
        None => Verdict::Hide,
        has => enough(has, needs, false),
    }
}

fn own(user: Option<UserId>, grants: &Grants, owner: UserId, needs: Role) -> Verdict {
    if user == Some(owner) {
        return Verdict::Allow;
    }
    shown(grants.system, needs)
}

fn enough(has: Option<Role>, needs: Role, system: bool) -> Verdict {
    let needed = word(needs);
    match has {
        Some(has) if has >= needs => Verdict::Allow,
        Some(has) if system => Verdict::Refuse(format!(
            "this needs the role {needed} on the system, and yours there is {}; ask a system admin",
            word(has)
        )),
        Some(has) => Verdict::Refuse(format!(
            "this needs the role {needed} in the project, and yours is {}; ask an admin of the project for it",
            word(has)
        )),
        None if system => Verdict::Refuse(format!(
            "this concerns the whole cloud and needs the role {needed} on the system; ask a system admin"
        )),
        None => Verdict::Refuse(format!(
            "this needs the role {needed} in a project, and you have none anywhere; ask an admin for one"
        )),
    }
}

/// A role as people write it.
pub const fn word(role: Role) -> &'static str {
    match role {
        Role::Reader => "reader",
        Role::Member => "member",
        Role::Admin => "admin",
    }
}

macro_rules! acts {
    ($($act:ident: $method:literal $path:literal => $who:expr;)*) => {
        /// An operation of the API.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "the rows say what each is")]
        pub enum Act {$($act,)*}

        impl Act {
            /// Every operation.
            pub const ALL: &'static [Self] = &[$(Self::$act,)*];

            /// Its HTTP method.
            pub const fn method(self) -> &'static str {
                match self {$(Self::$act => $method,)*}
            }

            /// Its path, as the API's description has it.
            pub const fn path(self) -> &'static str {
                match self {$(Self::$act => $path,)*}
            }

            /// Who may.
            pub const fn who(self) -> Who {
                match self {$(Self::$act => $who,)*}
            }
        }
    };
}

const READER: Who = Who::Project(Role::Reader);
const MEMBER: Who = Who::Project(Role::Member);
const ADMIN: Who = Who::Project(Role::Admin);
const SYSTEM_READER: Who = Who::System(Role::Reader);
const SYSTEM_ADMIN: Who = Who::System(Role::Admin);

acts! {
    AuthLogin: "POST" "/v1/auth/login" => Who::Everyone;
    AuthMethods: "GET" "/v1/auth/methods" => Who::Everyone;
    AuthOidc: "POST" "/v1/auth/oidc" => Who::Everyone;
    AuthRenew: "POST" "/v1/auth/renew" => Who::Known;
    AuthLogout: "POST" "/v1/auth/logout" => Who::Known;
    WhoAmI: "GET" "/v1/whoami" => Who::Known;
    Status: "GET" "/v1/status" => Who::Known;
    OpenApi: "GET" "/v1/openapi.json" => Who::Known;
    Metrics: "GET" "/metrics" => SYSTEM_READER;

    UserList: "GET" "/v1/users" => SYSTEM_READER;
    UserCreate: "POST" "/v1/users" => SYSTEM_ADMIN;
    UserShow: "GET" "/v1/users/{user}" => Who::Own(Role::Reader);
    UserUpdate: "PATCH" "/v1/users/{user}" => SYSTEM_ADMIN;
    UserDelete: "DELETE" "/v1/users/{user}" => SYSTEM_ADMIN;
    UserPassword: "PUT" "/v1/users/{user}/password" => Who::Own(Role::Admin);
    UserRevokeSessions: "POST" "/v1/users/{user}/revoke-sessions" => Who::Own(Role::Admin);
    UserUnlock: "POST" "/v1/users/{user}/unlock" => SYSTEM_ADMIN;
    UserGroupList: "GET" "/v1/user-groups" => SYSTEM_READER;
    UserGroupCreate: "POST" "/v1/user-groups" => SYSTEM_ADMIN;
    UserGroupShow: "GET" "/v1/user-groups/{group}" => SYSTEM_READER;
    UserGroupUpdate: "PATCH" "/v1/user-groups/{group}" => SYSTEM_ADMIN;
    UserGroupDelete: "DELETE" "/v1/user-groups/{group}" => SYSTEM_ADMIN;
    RoleAssignmentList: "GET" "/v1/role-assignments" => READER;
    RoleAssignmentCreate: "POST" "/v1/role-assignments" => ADMIN;
    RoleAssignmentShow: "GET" "/v1/role-assignments/{assignment}" => READER;
    RoleAssignmentUpdate: "PATCH" "/v1/role-assignments/{assignment}" => ADMIN;
    RoleAssignmentDelete: "DELETE" "/v1/role-assignments/{assignment}" => ADMIN;
    AppCredentialList: "GET" "/v1/app-credentials" => Who::Own(Role::Reader);
    AppCredentialCreate: "POST" "/v1/app-credentials" => Who::Own(Role::Admin);
    AppCredentialShow: "GET" "/v1/app-credentials/{credential}" => Who::Own(Role::Reader);
    AppCredentialDelete: "DELETE" "/v1/app-credentials/{credential}" => Who::Own(Role::Admin);
    TokenList: "GET" "/v1/tokens" => ADMIN;
    TokenCreate: "POST" "/v1/tokens" => ADMIN;
    TokenShow: "GET" "/v1/tokens/{token}" => ADMIN;
    TokenDelete: "DELETE" "/v1/tokens/{token}" => ADMIN;
    ProjectList: "GET" "/v1/projects" => Who::Known;
    ProjectCreate: "POST" "/v1/projects" => SYSTEM_ADMIN;
    ProjectShow: "GET" "/v1/projects/{project}" => READER;
    ProjectUpdate: "PATCH" "/v1/projects/{project}" => SYSTEM_ADMIN;
    ProjectDelete: "DELETE" "/v1/projects/{project}" => SYSTEM_ADMIN;

    FlavorList: "GET" "/v1/flavors" => Who::Known;
    FlavorCreate: "POST" "/v1/flavors" => SYSTEM_ADMIN;
    FlavorShow: "GET" "/v1/flavors/{flavor}" => Who::Known;
    FlavorDelete: "DELETE" "/v1/flavors/{flavor}" => SYSTEM_ADMIN;
    NodeList: "GET" "/v1/nodes" => SYSTEM_READER;
    NodeShow: "GET" "/v1/nodes/{node}" => SYSTEM_READER;
    NodeUpdate: "PATCH" "/v1/nodes/{node}" => SYSTEM_ADMIN;
    NodeDelete: "DELETE" "/v1/nodes/{node}" => SYSTEM_ADMIN;
    MigrationList: "GET" "/v1/migrations" => SYSTEM_READER;
    MigrationCreate: "POST" "/v1/migrations" => SYSTEM_ADMIN;
    MigrationShow: "GET" "/v1/migrations/{migration}" => SYSTEM_READER;
    MigrationCancel: "POST" "/v1/migrations/{migration}/cancel" => SYSTEM_ADMIN;
    JoinTokenCreate: "POST" "/v1/join-tokens" => SYSTEM_ADMIN;
    EventList: "GET" "/v1/events" => READER;
    AuditList: "GET" "/v1/audit" => ADMIN;

    KeypairList: "GET" "/v1/keypairs" => READER;
    KeypairCreate: "POST" "/v1/keypairs" => MEMBER;
    KeypairShow: "GET" "/v1/keypairs/{keypair}" => READER;
    KeypairDelete: "DELETE" "/v1/keypairs/{keypair}" => MEMBER;
    ImageList: "GET" "/v1/images" => READER;
    ImageCreate: "POST" "/v1/images" => MEMBER;
    ImageShow: "GET" "/v1/images/{image}" => READER;
    ImageUpdate: "PATCH" "/v1/images/{image}" => MEMBER;
    ImageDelete: "DELETE" "/v1/images/{image}" => MEMBER;
    ImageUpload: "PUT" "/v1/images/{image}/content" => MEMBER;
    ImageDownload: "GET" "/v1/images/{image}/content" => READER;
    VmList: "GET" "/v1/vms" => READER;
    VmCreate: "POST" "/v1/vms" => MEMBER;
    VmShow: "GET" "/v1/vms/{vm}" => READER;
    VmUpdate: "PATCH" "/v1/vms/{vm}" => MEMBER;
    VmDelete: "DELETE" "/v1/vms/{vm}" => MEMBER;
    VmAct: "POST" "/v1/vms/{vm}/actions" => MEMBER;
    VmExplain: "GET" "/v1/vms/{vm}/explain" => READER;
    VmPath: "GET" "/v1/vms/{vm}/path" => READER;
    VmUserData: "GET" "/v1/vms/{vm}/user-data" => MEMBER;
    VmExec: "POST" "/v1/vms/{vm}/exec" => MEMBER;
    VmPassword: "POST" "/v1/vms/{vm}/password" => MEMBER;
    VmQuiesce: "POST" "/v1/vms/{vm}/quiesce" => MEMBER;
    VmThaw: "POST" "/v1/vms/{vm}/thaw" => MEMBER;
    VmAgentPing: "POST" "/v1/vms/{vm}/agent-ping" => MEMBER;
    VmConsoleLog: "GET" "/v1/vms/{vm}/console-log" => MEMBER;
    VmScreenshot: "GET" "/v1/vms/{vm}/screenshot" => MEMBER;
    VmConsole: "GET" "/v1/vms/{vm}/console" => MEMBER;
    VmVnc: "GET" "/v1/vms/{vm}/vnc" => MEMBER;
    VmTcp: "GET" "/v1/vms/{vm}/tcp/{port}" => MEMBER;
    NetworkList: "GET" "/v1/networks" => READER;
    NetworkCreate: "POST" "/v1/networks" => MEMBER;
    NetworkShow: "GET" "/v1/networks/{network}" => READER;
    NetworkUpdate: "PATCH" "/v1/networks/{network}" => MEMBER;
    NetworkDelete: "DELETE" "/v1/networks/{network}" => MEMBER;
    SubnetList: "GET" "/v1/subnets" => READER;
    SubnetCreate: "POST" "/v1/subnets" => MEMBER;
    SubnetShow: "GET" "/v1/subnets/{subnet}" => READER;
    SubnetUpdate: "PATCH" "/v1/subnets/{subnet}" => MEMBER;
    SubnetDelete: "DELETE" "/v1/subnets/{subnet}" => MEMBER;
    PortList: "GET" "/v1/ports" => READER;
    PortCreate: "POST" "/v1/ports" => MEMBER;
    PortShow: "GET" "/v1/ports/{port}" => READER;
    PortUpdate: "PATCH" "/v1/ports/{port}" => MEMBER;
    PortDelete: "DELETE" "/v1/ports/{port}" => MEMBER;
    SecurityGroupList: "GET" "/v1/security-groups" => READER;
    SecurityGroupCreate: "POST" "/v1/security-groups" => MEMBER;
    SecurityGroupShow: "GET" "/v1/security-groups/{group}" => READER;
    SecurityGroupUpdate: "PATCH" "/v1/security-groups/{group}" => MEMBER;
    SecurityGroupDelete: "DELETE" "/v1/security-groups/{group}" => MEMBER;
    SecurityRuleAdd: "POST" "/v1/security-groups/{group}/rules" => MEMBER;
    SecurityRuleRemove: "DELETE" "/v1/security-groups/{group}/rules/{rule}" => MEMBER;
    RouterList: "GET" "/v1/routers" => READER;
    RouterCreate: "POST" "/v1/routers" => MEMBER;
    RouterShow: "GET" "/v1/routers/{router}" => READER;
    RouterUpdate: "PATCH" "/v1/routers/{router}" => MEMBER;
    RouterDelete: "DELETE" "/v1/routers/{router}" => MEMBER;
    RouterSubnetAdd: "POST" "/v1/routers/{router}/subnets" => MEMBER;
    RouterSubnetRemove: "DELETE" "/v1/routers/{router}/subnets/{subnet}" => MEMBER;
    FloatingIpList: "GET" "/v1/floating-ips" => READER;
    FloatingIpCreate: "POST" "/v1/floating-ips" => MEMBER;
    FloatingIpShow: "GET" "/v1/floating-ips/{floating_ip}" => READER;
    FloatingIpUpdate: "PATCH" "/v1/floating-ips/{floating_ip}" => MEMBER;
    FloatingIpDelete: "DELETE" "/v1/floating-ips/{floating_ip}" => MEMBER;
}

impl Act {
    /// The operation of this method and path, as the router matched it. `HEAD` is a `GET` whose body nobody sees.
    pub fn of(method: &str, path: &str) -> Option<Self> {
        let method = if method == "HEAD" { "GET" } else { method };
        Self::ALL.iter().copied().find(|act| act.method() == method && act.path() == path)
    }

    /// Whether someone who must first choose another password may do this.
    pub const fn before_new_password(self) -> bool {
        matches!(
            self,
            Self::UserPassword | Self::WhoAmI | Self::AuthLogout | Self::AuthMethods | Self::AuthLogin | Self::AuthOidc
        )
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    const A: ProjectId = ProjectId(Uuid::from_u128(1));
    const B: ProjectId = ProjectId(Uuid::from_u128(2));
    const ANN: UserId = UserId(Uuid::from_u128(3));
    const BOB: UserId = UserId(Uuid::from_u128(4));

    fn asks(grants: &Grants, who: Who, place: Place) -> Verdict {
        decide(Asker { user: Some(ANN), grants }, who, place)
    }

    #[test]
    fn another_projects_things_are_hidden_and_ones_own_refused_with_a_reason() {
        let reader = Grants::of(Role::Reader, Scope::Project(A));
        assert_eq!(asks(&reader, READER, Place::Project(A)), Verdict::Allow);
        assert_eq!(asks(&reader, READER, Place::Project(B)), Verdict::Hide);
        assert_eq!(asks(&reader, MEMBER, Place::Project(B)), Verdict::Hide);
        assert!(matches!(asks(&reader, MEMBER, Place::Project(A)), Verdict::Refuse(why) if why.contains("member")));
    }

    #[test]
    fn a_role_on_the_system_holds_in_every_project_and_not_the_other_way_round() {
        let system = Grants::system(Role::Member);
        assert_eq!(asks(&system, MEMBER, Place::Project(B)), Verdict::Allow);
        let project = Grants::of(Role::Admin, Scope::Project(A));
        assert!(matches!(asks(&project, SYSTEM_READER, Place::Somewhere), Verdict::Refuse(_)));
        assert!(matches!(asks(&project, ADMIN, Place::System), Verdict::Refuse(_)));
    }

    #[test]
    fn ones_own_is_ones_own_but_not_for_programs() {
        let none = Grants::default();
        let who = Who::Own(Role::Admin);
        assert_eq!(asks(&none, who, Place::User(ANN)), Verdict::Allow);
        assert_eq!(asks(&none, who, Place::User(BOB)), Verdict::Hide);
        assert_eq!(asks(&Grants::system(Role::Admin), who, Place::User(BOB)), Verdict::Allow);
        assert!(matches!(asks(&Grants::system(Role::Reader), who, Place::User(BOB)), Verdict::Refuse(_)));
        let program = Asker { user: None, grants: &none };
        assert!(matches!(decide(program, who, Place::Somewhere), Verdict::Refuse(_)));
        assert_eq!(decide(program, who, Place::User(ANN)), Verdict::Hide);
    }

    #[test]
    fn a_limit_takes_away_and_never_gives() {
        let mut grants = Grants::of(Role::Admin, Scope::Project(A));
        grants.add(Role::Reader, Scope::System);
        let in_b = grants.clone().within(Scope::Project(B));
        assert_eq!((in_b.in_project(B), in_b.in_project(A), in_b.system), (Some(Role::Reader), None, None));
        assert_eq!(grants.clone().within(Scope::System), Grants::system(Role::Reader));
        assert_eq!(grants.at_most(Role::Member).in_project(A), Some(Role::Member));
    }

    fn role() -> impl Strategy<Value = Role> {
        prop_oneof![Just(Role::Reader), Just(Role::Member), Just(Role::Admin)]
    }

    proptest! {
        /// More rights never forbid what fewer allow, and whoever has none is let in nowhere.
        #[test]
        fn rights_are_monotonous(has in role(), more in role(), needs in role(), on_system: bool) {
            let scope = if on_system { Scope::System } else { Scope::Project(A) };
            for who in [Who::Project(needs), Who::System(needs)] {
                for place in [Place::Somewhere, Place::System, Place::Project(A), Place::Project(B)] {
                    let mut grants = Grants::of(has, scope);
                    let before = asks(&grants, who, place);
                    grants.add(more, Scope::System);
                    if before == Verdict::Allow {
                        prop_assert_eq!(asks(&grants, who, place), Verdict::Allow);
                    }
                    prop_assert_ne!(asks(&Grants::default(), who, place), Verdict::Allow);
                }
            }
        }
    }

    #[test]
    fn operations_are_found_by_what_the_router_matched() {
        assert_eq!(Act::of("GET", "/v1/vms/{vm}"), Some(Act::VmShow));
        assert_eq!(Act::of("HEAD", "/v1/vms/{vm}"), Some(Act::VmShow));
        assert_eq!(Act::of("TRACE", "/v1/vms/{vm}"), None);
        for act in Act::ALL {
            assert_eq!(Act::of(act.method(), act.path()), Some(*act), "two rows for one operation");
        }
    }
}
